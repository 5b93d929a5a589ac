//! [`crate::Backend::packed_attention`]: `softmax(scale · q·kᵀ) · v` within each sequence.

use std::ops::Range;

use super::{Reference, dot};
use crate::host::HostBuffer;
use crate::params::PackedAttention;
use crate::{Result, checks};

pub(super) fn packed_attention(
    dst: &mut HostBuffer,
    p: &PackedAttention<'_, Reference>,
) -> Result<()> {
    let view = checks::packed_attention(dst, p)?;
    let dim = p.head_dim;
    let sequences: Vec<Range<usize>> = view.sequences().collect();
    for seq in sequences {
        for token in seq.clone() {
            for head in 0..p.heads {
                let at = (token * p.heads + head) * dim;
                let kv = |t: usize| (t * p.kv_heads + head / view.group) * dim;
                let q = &view.q[at..][..dim];
                let scores: Vec<f64> = (seq.clone())
                    .map(|t| f64::from(p.scale) * dot(q, &view.k[kv(t)..][..dim]))
                    .collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                let total: f64 = weights.iter().sum();
                for (d, out) in view.dst[at..][..dim].iter_mut().enumerate() {
                    let values = seq.clone().map(|t| f64::from(view.v[kv(t) + d]));
                    let sum: f64 = weights.iter().zip(values).map(|(w, v)| w * v).sum();
                    *out = (sum / total) as f32;
                }
            }
        }
    }
    Ok(())
}
