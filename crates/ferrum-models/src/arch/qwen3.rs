//! `qwen3`: Qwen 3, dense (arXiv:2505.09388), with a norm on each query and key head.

use super::hparams::Hparams;
use crate::decoder::{DecoderSpec, RopeStyle};
use crate::load::ModelError;

pub(super) fn spec(h: &Hparams<'_>) -> Result<DecoderSpec, ModelError> {
    let mut spec = h.base(RopeStyle::Split)?;
    spec.layers.iter_mut().for_each(|layer| layer.qk_norm = true);
    Ok(spec)
}
