//! `gemma2`: Gemma 2 (arXiv:2408.00118). Every other layer has a sliding window; norms before and
//! after each sublayer; attention scores and logits are bounded.

use super::hparams::Hparams;
use super::{Architecture, NORMS_AROUND};
use crate::decoder::{Activation, DecoderSpec, Norms, RopeStyle};
use crate::load::ModelError;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "gemma2",
    spec,
    model_types: &["gemma2"],
    modules: NORMS_AROUND,
    norms_less_one: true,
    ..Architecture::DEFAULT
};

/// Of so many layers, the last is global.
const PERIOD: usize = 2;
/// Bounds of logits and of attention scores, where the file does not state them; 0 is none.
const LOGITS: f32 = 30.0;
const SCORES: f32 = 50.0;
/// The 27B model scales attention by its hidden size per head and not by the head's own width;
/// GGUF files do not state it, the number of layers tells.
const LAYERS_27B: usize = 46;

fn spec(h: &Hparams<'_>) -> Result<DecoderSpec, ModelError> {
    let mut spec = h.base(RopeStyle::Split)?;
    h.alternate(&mut spec, PERIOD)?;
    spec.embed_scale = (spec.hidden as f32).sqrt();
    let bound = |key: &str, default: f32| {
        Ok::<_, ModelError>(match h.f32(key)? {
            None => Some(default),
            Some(_) => h.positive(key)?,
        })
    };
    spec.logits.softcap = bound("final_logit_softcapping", LOGITS)?;
    let softcap = bound("attn_logit_softcapping", SCORES)?;
    let scaled_by_hidden =
        spec.layers.len() == LAYERS_27B && h.positive("attention.scale")?.is_none();
    for layer in &mut spec.layers {
        layer.norms = Norms::Around;
        layer.softcap = softcap;
        layer.mlp.activation = Activation::GeluTanh;
        if scaled_by_hidden {
            layer.attn_scale = 1.0 / ((spec.hidden / layer.heads) as f32).sqrt();
        }
    }
    Ok(spec)
}
