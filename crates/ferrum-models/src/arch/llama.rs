//! `llama`: Llama 2 and 3 (Touvron et al. 2023, arXiv:2307.09288; arXiv:2407.21783), Mistral with
//! its sliding window (arXiv:2310.06825), SmolLM, and others that keep the same shape.

use super::hparams::Hparams;
use crate::decoder::{DecoderSpec, RopeStyle};
use crate::load::ModelError;

pub(super) fn spec(h: &Hparams<'_>) -> Result<DecoderSpec, ModelError> {
    // The converters reorder the rows of q and k so that rotated pairs lie side by side.
    let mut spec = h.base(RopeStyle::Interleaved)?;
    let qkv_bias = h.has_tensor("blk.0.attn_q.bias");
    spec.layers.iter_mut().for_each(|layer| layer.qkv_bias = qkv_bias);
    Ok(spec)
}
