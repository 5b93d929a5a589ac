//! Requests to tokens: [`Engine`] takes requests, runs the model step by step, and returns text.
//!
//! [`scheduler`] decides what each step computes, with [`blocks`] as its account of the KV cache
//! and [`sequence`] as the state of one request; it is a pure state machine. [`sampler`] turns a
//! row of logits into a token, within the grammar of a [`constraint`] if there is one, [`stop`] cuts the text at stop strings, and [`engine`] puts them
//! together around a [`ferrum_models::runner::Runner`].

pub mod blocks;
pub mod constraint;
mod draft;
mod drafting;
pub mod engine;
pub mod error;
mod generation;
pub mod pacer;
mod reasoning;
pub mod request;
pub mod sampler;
pub mod scheduler;
pub mod sequence;
mod speculation;
pub mod stats;
pub mod stop;
pub mod vocabulary;

pub use constraint::{Constraint, ConstraintCompiler, ConstraintError, Grammar};
pub use engine::{Engine, EngineConfig, Event};
pub use error::{AdmissionError, EngineError};
pub use reasoning::ReasoningSpec;
pub use request::{
    FinishReason, MAX_LOGPROBS, Request, RequestId, StopConditions, TokenLogprobs, Usage,
};
pub use sampler::{ParamError, SamplingParams};
pub use stats::EngineStats;
pub use vocabulary::{Detokenizer, Vocabulary, VocabularyMismatch, same_vocabulary};
