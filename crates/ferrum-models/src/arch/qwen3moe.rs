//! `qwen3moe`: Qwen 3, mixture of experts (arXiv:2505.09388): attention as in the dense models, and in
//! every layer a softmax router over small experts, without a shared one.

use super::hparams::Hparams;
use crate::decoder::{DecoderSpec, RopeStyle};
use crate::load::ModelError;

pub(super) fn spec(h: &Hparams<'_>) -> Result<DecoderSpec, ModelError> {
    let mut spec = h.base(RopeStyle::Split)?;
    spec.layers.iter_mut().for_each(|layer| layer.qk_norm = true);
    h.experts(&mut spec)?;
    Ok(spec)
}
