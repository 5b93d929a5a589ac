//! `qwen3`: Qwen 3, dense (arXiv:2505.09388), with a norm on each query and key head.

use super::Architecture;
use super::hparams::Hparams;
use crate::decoder::{DecoderSpec, QkNorm, RopeStyle};
use crate::load::ModelError;

pub(super) const ARCHITECTURE: Architecture =
    Architecture { name: "qwen3", spec, model_types: &["qwen3"], ..Architecture::DEFAULT };

fn spec(h: &Hparams<'_>) -> Result<DecoderSpec, ModelError> {
    let mut spec = h.base(RopeStyle::Split)?;
    spec.layers.iter_mut().for_each(|layer| layer.qk_norm = QkNorm::Head);
    Ok(spec)
}
