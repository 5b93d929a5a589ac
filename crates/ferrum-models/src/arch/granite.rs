//! `granite`: Granite 3 (IBM 2024, "Granite 3.0 Language Models"): Llama with factors on embedding,
//! attention scores, sublayers and logits.

use super::Architecture;
use super::hparams::Hparams;
use crate::decoder::DecoderSpec;
use crate::load::ModelError;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "granite",
    spec,
    model_types: &["granite"],
    reordered: true,
    ..Architecture::DEFAULT
};

fn spec(h: &Hparams<'_>) -> Result<DecoderSpec, ModelError> {
    let mut spec = h.base(h.reordered_rope())?;
    let qkv_bias = h.has_tensor("blk.0.attn_q.bias");
    spec.layers.iter_mut().for_each(|layer| layer.qkv_bias = qkv_bias);
    spec.embed_scale = h.positive("embedding_scale")?.unwrap_or(1.0);
    spec.logits.scale = 1.0 / h.positive("logit_scale")?.unwrap_or(1.0);
    // With a factor `r` on what sublayers add, the residual stream `x = r · y`: `y` takes their
    // results as they are, begins with the embedding over `r`, and has the norms
    // `norm(x, eps) = norm(y, eps / r²)`. All norms are of the residual stream.
    let factor = h.positive("residual_scale")?.unwrap_or(1.0);
    spec.embed_scale /= factor;
    spec.norm_eps /= factor * factor;
    Ok(spec)
}
