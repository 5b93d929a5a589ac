//! Encoders: texts to vectors.
//!
//! A folder from Hugging Face with a model of the bert family (MiniLM, BGE, E5 and others are bert),
//! as `transformers` or `sentence-transformers` write it. [`EncoderSpec`] is what `config.json` says,
//! [`Sentence`] what the files of sentence-transformers add: pooling, normalisation, the longest
//! text. Texts are packed one after the other into a step, without padding, and a text's vector does
//! not depend on what else is in it.

mod error;
mod forward;
mod model;
mod pooling;
mod sentence;
mod spec;
mod weights;

#[cfg(test)]
mod tests;

pub use error::EmbedError;
pub use model::{Embedder, TextEncoder};
pub use pooling::Pooling;
pub use sentence::Sentence;
pub use spec::{EncoderSpec, is_encoder};
