//! Texts to vectors, and pairs of texts to scores.
//!
//! A folder from Hugging Face with a model of the bert family (MiniLM, BGE and E5 are bert, the E5 of many
//! languages XLM-R), as `transformers` or `sentence-transformers` write it. [`EncoderSpec`] is what `config.json` says,
//! [`Sentence`] what the files of sentence-transformers add: pooling, normalisation, the longest
//! text. Or a causal model, such as Qwen3-Embedding, whose states are pooled likewise: a folder with
//! these files, or a GGUF file that says how. Texts are packed one after the other into a step,
//! without padding, and a text's vector does not depend on what else is in it.
//!
//! An encoder with a classifier of one class (a cross-encoder) scores pairs of texts instead.

mod causal;
mod classifier;
mod error;
mod forward;
mod model;
mod pooling;
mod sentence;
mod sizes;
mod source;
mod spec;
mod texts;
mod weights;

#[cfg(test)]
mod tests;

pub use error::EmbedError;
pub use model::Embedder;
pub use pooling::Pooling;
pub use sentence::Sentence;
pub use sizes::EncoderSizes;
pub use source::{is_encoder, makes_embeddings};
pub use spec::EncoderSpec;
pub use texts::{Input, Pair, TextEncoder};
