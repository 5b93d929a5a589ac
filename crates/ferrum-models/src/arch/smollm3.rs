//! `smollm3`: SmolLM 3 (Hugging Face 2025): Llama whose every fourth layer knows no positions
//! (NoPE, arXiv:2305.19466).

use super::Architecture;
use super::hparams::Hparams;
use crate::decoder::DecoderSpec;
use crate::load::ModelError;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "smollm3",
    spec,
    model_types: &["smollm3"],
    reordered: true,
    ..Architecture::DEFAULT
};

/// Of so many layers, the last has no RoPE, unless the file lists the layers.
const PERIOD: usize = 4;

fn spec(h: &Hparams<'_>) -> Result<DecoderSpec, ModelError> {
    let mut spec = h.base(h.reordered_rope())?;
    let layers = spec.layers.len();
    let listed = h.per_layer("rope.layers", layers)?;
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        let rotated = listed.map_or((i + 1) % PERIOD != 0, |all| all[i]);
        layer.rope = rotated.then_some(0);
    }
    Ok(spec)
}
