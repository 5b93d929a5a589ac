//! Folders from Hugging Face: `config.json`, `tokenizer.json` and safetensors files.
//!
//! [`Folder`] is such a model as a [`crate::Checkpoint`]: its settings and tensors get the names
//! that GGUF has for them (`config`, `names`), so that an architecture is written once for both.
//! Where GGUF keeps something else than transformers does (Gemma's norms plus one, the experts of a
//! layer in one tensor, RoPE's divisors), it is made here when it is read.
//!
//! The files are taken to be hostile: their sizes are bounded, names of shards cannot leave the
//! folder, and a setting that changes the result and that is not known here is refused.

mod config;
mod defaults;
mod error;
mod folder;
pub(crate) mod json;
mod names;
mod quant;
mod rope;
mod shards;
mod template;

#[cfg(test)]
mod tests;

pub use error::HfError;
pub use folder::Folder;
pub(crate) use names::module_of;
pub use shards::{Shards, StoredTensor};
