//! Architectures: GGUF metadata to a [`DecoderSpec`], one file each.
//!
//! To add one: write `arch/<name>.rs` with a `spec` function, add its line to [`REGISTRY`], and a
//! tiny configuration of it to `tests/golden_logits.rs`.

mod gemma3;
mod hparams;
mod llama;
mod qwen2;
mod qwen3;
mod qwen3moe;

use crate::decoder::DecoderSpec;
use crate::gguf::Gguf;
use crate::load::ModelError;
use hparams::Hparams;

/// Reads an architecture's spec from a file's metadata.
type SpecFn = fn(&Hparams<'_>) -> Result<DecoderSpec, ModelError>;

/// `general.architecture` of each architecture that Ferrum runs.
const REGISTRY: &[(&str, SpecFn)] = &[
    ("gemma3", gemma3::spec),
    ("llama", llama::spec),
    ("qwen2", qwen2::spec),
    ("qwen3", qwen3::spec),
    ("qwen3moe", qwen3moe::spec),
];

/// The spec of a file's model, or an error that names the architecture or the setting that is not
/// supported.
pub fn spec(file: &Gguf) -> Result<DecoderSpec, ModelError> {
    let name = file.metadata().need_str("general.architecture")?;
    let Some((_, read)) = REGISTRY.iter().find(|(known, _)| *known == name) else {
        let known: Vec<_> = REGISTRY.iter().map(|(known, _)| *known).collect();
        return Err(ModelError::Architecture { name: name.into(), known: known.join(", ") });
    };
    let hparams = Hparams::new(file, name)?;
    let spec = read(&hparams)?;
    hparams.check(&spec)?;
    Ok(spec)
}

/// Names of the architectures that Ferrum runs.
pub fn names() -> impl Iterator<Item = &'static str> {
    REGISTRY.iter().map(|(name, _)| *name)
}
