//! `qwen2`: Qwen 2 and 2.5 (arXiv:2407.10671), with biases on query, key and value.

use super::Architecture;
use super::hparams::Hparams;
use crate::decoder::{DecoderSpec, RopeStyle};
use crate::load::ModelError;

pub(super) const ARCHITECTURE: Architecture =
    Architecture { name: "qwen2", spec, model_types: &["qwen2"], ..Architecture::DEFAULT };

fn spec(h: &Hparams<'_>) -> Result<DecoderSpec, ModelError> {
    let mut spec = h.base(RopeStyle::Split)?;
    spec.layers.iter_mut().for_each(|layer| layer.qkv_bias = true);
    Ok(spec)
}
