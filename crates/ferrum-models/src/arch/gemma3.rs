//! `gemma3`: Gemma 3, text (arXiv:2503.19786). Local layers with a sliding window and their own
//! RoPE, every sixth global; norms before and after each sublayer and on each head.

use super::hparams::Hparams;
use super::{Architecture, NORMS_AROUND};
use crate::decoder::{Activation, DecoderSpec, Norms, QkNorm, RopeScaling, RopeSpec, RopeStyle};
use crate::load::ModelError;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "gemma3",
    spec,
    model_types: &["gemma3_text", "gemma3"],
    modules: NORMS_AROUND,
    norms_less_one: true,
    ..Architecture::DEFAULT
};

/// Of so many layers, the last is global.
const PERIOD: usize = 6;
/// RoPE theta of the local layers, where the file does not state it.
const LOCAL_THETA: f32 = 10_000.0;
/// The 27B model scales attention by its hidden size per head and not by the head's own width;
/// GGUF files do not state it, the number of layers tells.
const LAYERS_27B: usize = 62;

fn spec(h: &Hparams<'_>) -> Result<DecoderSpec, ModelError> {
    let mut spec = h.base(RopeStyle::Split)?;
    h.alternate(&mut spec, PERIOD)?;
    let theta = h.positive("rope.freq_base_swa")?.unwrap_or(LOCAL_THETA);
    let local =
        RopeSpec { theta, scaling: RopeScaling::None, magnitude: 1.0, ..spec.ropes[0].clone() };
    spec.ropes.push(local);
    spec.embed_scale = (spec.hidden as f32).sqrt();
    spec.logits.softcap = h.positive("final_logit_softcapping")?;
    let softcap = h.positive("attn_logit_softcapping")?;
    let scaled_by_hidden =
        spec.layers.len() == LAYERS_27B && h.positive("attention.scale")?.is_none();
    for layer in &mut spec.layers {
        layer.qk_norm = QkNorm::Head;
        layer.norms = Norms::Around;
        layer.softcap = softcap;
        layer.mlp.activation = Activation::GeluTanh;
        layer.rope = Some(usize::from(layer.window.is_some()));
        if scaled_by_hidden {
            layer.attn_scale = 1.0 / ((spec.hidden / layer.heads) as f32).sqrt();
        }
    }
    Ok(spec)
}
