//! `gemma3`: Gemma 3, text (arXiv:2503.19786). Local layers with a sliding window and their own
//! RoPE, every sixth global; norms before and after each sublayer and on each head.

use super::hparams::Hparams;
use crate::decoder::{Activation, DecoderSpec, RopeSpec, RopeStyle};
use crate::load::ModelError;

/// Of so many layers, the last is global.
const PATTERN: usize = 6;
/// RoPE theta of the local layers, where the file does not state it.
const LOCAL_THETA: f32 = 10_000.0;
/// The 27B model scales attention by its hidden size per head and not by the head's own width;
/// files do not state it, the number of layers tells.
const LAYERS_27B: usize = 62;

pub(super) fn spec(h: &Hparams<'_>) -> Result<DecoderSpec, ModelError> {
    let mut spec = h.base(RopeStyle::Split)?;
    if spec.layers[0].window.is_none() {
        return Err(h.unsupported("attention.sliding_window", "(absent)".into()));
    }
    let global = &spec.ropes[0];
    let local = RopeSpec {
        theta: h.f32("rope.freq_base_swa")?.unwrap_or(LOCAL_THETA),
        scale: 1.0,
        factors: None,
        ..global.clone()
    };
    if local.theta <= 0.0 {
        return Err(h.unsupported("rope.freq_base_swa", local.theta.to_string()));
    }
    spec.ropes.push(local);
    spec.embed_scale = (spec.hidden as f32).sqrt();
    let pattern = h.optional_count("attention.sliding_window_pattern")?.unwrap_or(PATTERN);
    let (hidden, count) = (spec.hidden, spec.layers.len());
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        layer.qk_norm = true;
        layer.post_norms = true;
        layer.mlp.activation = Activation::GeluTanh;
        if count == LAYERS_27B {
            layer.attn_scale = 1.0 / ((hidden / layer.heads) as f32).sqrt();
        }
        match (i + 1) % pattern {
            0 => layer.window = None,
            _ => layer.rope = 1,
        }
    }
    Ok(spec)
}
