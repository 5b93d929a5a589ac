//! `olmo2`: OLMo 2 (arXiv:2501.00656). Norms on the outputs of the sublayers instead of their inputs,
//! and on all heads of queries and keys together.

use super::Architecture;
use super::hparams::Hparams;
use crate::decoder::{DecoderSpec, Norms, QkNorm, RopeStyle};
use crate::load::ModelError;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "olmo2",
    spec,
    model_types: &["olmo2"],
    modules: &[
        ("post_attention_layernorm", "post_attention_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
    ],
    ..Architecture::DEFAULT
};

fn spec(h: &Hparams<'_>) -> Result<DecoderSpec, ModelError> {
    let mut spec = h.base(RopeStyle::Split)?;
    for layer in &mut spec.layers {
        layer.norms = Norms::After;
        layer.qk_norm = QkNorm::Row;
    }
    Ok(spec)
}
