//! The rotary position embedding of a model, with its scaling.

use super::hparams::Hparams;
use crate::decoder::{RopeScaling, RopeSpec, RopeStyle, Yarn};
use crate::load::ModelError;

/// Tensors of divisors, as GGUF calls them.
const DIVISORS: &str = "rope_freqs.weight";
const LONG: &str = "rope_factors_long.weight";
const SHORT: &str = "rope_factors_short.weight";

/// RoPE theta where the file does not state it.
const THETA: f32 = 10_000.0;

/// Fastest and slowest frequency that YaRN changes in part, in turns over the original context,
/// where the file does not state them.
const YARN_BETAS: (f32, f32) = (32.0, 1.0);

/// The main RoPE.
pub(super) fn spec(
    h: &Hparams<'_>,
    head_dim: usize,
    style: RopeStyle,
) -> Result<RopeSpec, ModelError> {
    let theta = h.f32("rope.freq_base")?.unwrap_or(THETA);
    if theta <= 0.0 {
        return Err(h.unsupported("rope.freq_base", theta.to_string()));
    }
    let rotary_dim = h.optional_count("rope.dimension_count")?.unwrap_or(head_dim);
    let scaling = scaling(h)?;
    let magnitude = h.positive("rope.scaling.attn_factor")?.unwrap_or(1.0);
    let magnitude = match &scaling {
        // The paper's section 3.4, as llama.cpp has it: the factor comes on top.
        RopeScaling::Yarn(yarn) => magnitude * (1.0 + 0.1 * yarn.factor.max(1.0).ln()),
        _ => magnitude,
    };
    Ok(RopeSpec { theta, rotary_dim, scaling, magnitude, style })
}

fn scaling(h: &Hparams<'_>) -> Result<RopeScaling, ModelError> {
    const TYPE: &str = "rope.scaling.type";
    const FACTOR: &str = "rope.scaling.factor";
    // Files from before `rope.scaling.*` have `rope.scale_linear`.
    let factor = match h.f32(FACTOR)? {
        Some(factor) => Some(factor),
        None => h.f32("rope.scale_linear")?,
    };
    if let Some(factor) = factor.filter(|f| *f <= 0.0) {
        return Err(h.unsupported(FACTOR, factor.to_string()));
    }
    let kind = h.text(TYPE)?;
    let need_factor = || factor.ok_or_else(|| h.unsupported(FACTOR, "(absent)".into()));
    let original = || {
        const KEY: &str = "rope.scaling.original_context_length";
        h.optional_count(KEY)?.ok_or_else(|| h.unsupported(KEY, "(absent)".into()))
    };
    if h.has_tensor(LONG) || h.has_tensor(SHORT) {
        let (short, long, original) = (SHORT.to_string(), LONG.to_string(), original()?);
        return Ok(RopeScaling::LongRope { short, long, original });
    }
    if h.has_tensor(DIVISORS) {
        return match (kind, factor) {
            (None | Some("none"), _) | (Some("linear"), None | Some(1.0)) => {
                Ok(RopeScaling::Divisors(DIVISORS.into()))
            }
            (Some(kind), _) => Err(h.unsupported(TYPE, format!("{kind} beside {DIVISORS}"))),
        };
    }
    Ok(match kind {
        Some("none") => RopeScaling::None,
        None => factor.map_or(RopeScaling::None, RopeScaling::Linear),
        Some("linear") => RopeScaling::Linear(need_factor()?),
        Some("dynamic") => RopeScaling::Dynamic { factor: need_factor()?, original: original()? },
        Some("yarn") => RopeScaling::Yarn(Yarn {
            factor: need_factor()?,
            original: original()?,
            beta_fast: h.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(YARN_BETAS.0),
            beta_slow: h.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(YARN_BETAS.1),
            truncate: h.bool("rope.scaling.yarn_truncate")?.unwrap_or(true),
        }),
        Some(other) => return Err(h.unsupported(TYPE, other.into())),
    })
}
