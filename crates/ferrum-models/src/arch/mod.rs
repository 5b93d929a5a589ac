//! Architectures: settings to a [`DecoderSpec`], one file each.
//!
//! To add one: write `arch/<name>.rs` with a `spec` function and what its files call things, add its
//! line to [`REGISTRY`], and tiny configurations of it to `tests/golden_logits.rs` (GGUF) and
//! `tests/hf_logits.rs` (Hugging Face).

mod gemma2;
mod gemma3;
mod granite;
mod hparams;
mod llama;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3moe;
mod rope;
mod smollm3;

use crate::checkpoint::Checkpoint;
use crate::decoder::DecoderSpec;
use crate::load::ModelError;
use hparams::Hparams;
pub(crate) use hparams::{MAX_LAYERS, MAX_WIDTH};

/// An architecture: how its files are told, and what is in them.
#[derive(Clone, Copy)]
pub(crate) struct Architecture {
    /// `general.architecture` of its GGUF files.
    pub name: &'static str,
    /// Reads its spec from the settings.
    spec: fn(&Hparams<'_>) -> Result<DecoderSpec, ModelError>,
    /// `model_type` in its `config.json`: several where transformers tells more models apart.
    pub model_types: &'static [&'static str],
    /// Modules of a layer that transformers calls otherwise than those of Llama: its name and ours.
    pub modules: &'static [(&'static str, &'static str)],
    /// llama.cpp's converter puts the rows of q and k side by side that are rotated together.
    pub reordered: bool,
    /// Transformers keeps the weights of norms less one.
    pub norms_less_one: bool,
}

impl Architecture {
    /// As Llama's files are.
    const DEFAULT: Architecture = Architecture {
        name: "",
        spec: |h| Err(h.unsupported("architecture", "(none)".into())),
        model_types: &[],
        modules: &[],
        reordered: false,
        norms_less_one: false,
    };
}

/// The architectures that Ferrum runs.
const REGISTRY: &[Architecture] = &[
    gemma2::ARCHITECTURE,
    gemma3::ARCHITECTURE,
    granite::ARCHITECTURE,
    llama::ARCHITECTURE,
    olmo2::ARCHITECTURE,
    phi3::ARCHITECTURE,
    qwen2::ARCHITECTURE,
    qwen3::ARCHITECTURE,
    qwen3moe::ARCHITECTURE,
    smollm3::ARCHITECTURE,
];

/// Names of norms in the models that have them around their sublayers (Gemma 2 and 3).
const NORMS_AROUND: &[(&str, &str)] = &[
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

/// The spec of a checkpoint's model, or an error that names the architecture or the setting that is
/// not supported.
pub fn spec(file: &dyn Checkpoint) -> Result<DecoderSpec, ModelError> {
    let name = file.metadata().need_str("general.architecture")?;
    let Some(architecture) = REGISTRY.iter().find(|a| a.name == name) else {
        let known: Vec<_> = names().collect();
        return Err(ModelError::Architecture { name: name.into(), known: known.join(", ") });
    };
    let hparams = Hparams::new(file, name);
    let spec = (architecture.spec)(&hparams)?;
    hparams.check(&spec)?;
    Ok(spec)
}

/// Names of the architectures that Ferrum runs, as GGUF files have them.
pub fn names() -> impl Iterator<Item = &'static str> {
    REGISTRY.iter().map(|a| a.name)
}

/// The architecture of this name.
pub(crate) fn by_name(name: &str) -> Option<&'static Architecture> {
    REGISTRY.iter().find(|a| a.name == name)
}

/// Whether llama.cpp's converter reorders the rows of q and k of an architecture.
pub(crate) fn reorders_rows(name: &str) -> bool {
    by_name(name).is_some_and(|a| a.reordered)
}

/// The architecture of a `config.json`'s `model_type`.
pub(crate) fn of_model_type(model_type: &str) -> Option<&'static Architecture> {
    REGISTRY.iter().find(|a| a.model_types.contains(&model_type))
}

/// Every `model_type` that Ferrum runs.
pub(crate) fn model_types() -> impl Iterator<Item = &'static str> {
    REGISTRY.iter().flat_map(|a| a.model_types).copied()
}
