//! `llama`: Llama 2 and 3 (Touvron et al. 2023, arXiv:2307.09288; arXiv:2407.21783), Mistral with
//! its sliding window (arXiv:2310.06825), Mixtral with its experts (arXiv:2401.04088), SmolLM, and
//! others that keep the same shape.

use super::Architecture;
use super::hparams::Hparams;
use crate::decoder::DecoderSpec;
use crate::load::ModelError;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "llama",
    spec,
    model_types: &["llama", "mistral", "mixtral"],
    reordered: true,
    ..Architecture::DEFAULT
};

fn spec(h: &Hparams<'_>) -> Result<DecoderSpec, ModelError> {
    let mut spec = h.base(h.reordered_rope())?;
    let qkv_bias = h.has_tensor("blk.0.attn_q.bias");
    spec.layers.iter_mut().for_each(|layer| layer.qkv_bias = qkv_bias);
    if h.optional_count("expert_count")?.is_some() {
        h.experts(&mut spec, |width, _| width)?;
    }
    Ok(spec)
}
