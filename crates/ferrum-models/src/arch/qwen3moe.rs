//! `qwen3moe`: Qwen 3, mixture of experts (arXiv:2505.09388): attention as in the dense models, and in
//! every layer a softmax router over small experts, without a shared one.

use super::Architecture;
use super::hparams::Hparams;
use crate::decoder::{DecoderSpec, QkNorm, RopeStyle};
use crate::load::ModelError;

pub(super) const ARCHITECTURE: Architecture =
    Architecture { name: "qwen3moe", spec, model_types: &["qwen3_moe"], ..Architecture::DEFAULT };

fn spec(h: &Hparams<'_>) -> Result<DecoderSpec, ModelError> {
    let mut spec = h.base(RopeStyle::Split)?;
    spec.layers.iter_mut().for_each(|layer| layer.qk_norm = QkNorm::Head);
    h.experts(&mut spec, |width, used| width / used)?;
    Ok(spec)
}
