//! `phi3`: Phi 3, 3.5 and 4 (arXiv:2404.14219, arXiv:2412.08905). Query, key and value in one matrix,
//! gate and up in another; longer contexts by LongRoPE.

use super::Architecture;
use super::hparams::Hparams;
use crate::decoder::{DecoderSpec, RopeStyle};
use crate::load::ModelError;

pub(super) const ARCHITECTURE: Architecture =
    Architecture { name: "phi3", spec, model_types: &["phi3"], ..Architecture::DEFAULT };

fn spec(h: &Hparams<'_>) -> Result<DecoderSpec, ModelError> {
    let mut spec = h.base(RopeStyle::Split)?;
    for layer in &mut spec.layers {
        layer.fused_qkv = true;
        layer.mlp.fused = true;
    }
    Ok(spec)
}
