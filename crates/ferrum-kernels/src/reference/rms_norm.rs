//! [`crate::Backend::rms_norm`]: `y (+)= x / sqrt(mean(x²) + eps) ⊙ weight`

use super::{Reference, dot};
use crate::host::HostBuffer;
use crate::params::RmsNorm;
use crate::{Result, checks};

pub(super) fn rms_norm(dst: &mut HostBuffer, p: &RmsNorm<'_, Reference>) -> Result<()> {
    let view = checks::rms_norm(dst, p)?;
    for (g, y) in view.dst.chunks_exact_mut(p.width).enumerate() {
        let x = match view.src {
            Some(src) => src[g * p.width..][..p.width].to_vec(),
            None => y.to_vec(),
        };
        for (y, value) in y.iter_mut().zip(normalised(&x, view.weight, p.eps)) {
            *y = if p.accumulate { f64::from(*y) + value } else { value } as f32;
        }
    }
    Ok(())
}

/// `x / sqrt(mean(x²) + eps) ⊙ weight`
pub(super) fn normalised(x: &[f32], weight: &[f32], eps: f32) -> Vec<f64> {
    let mean = dot(x, x) / x.len() as f64;
    let factor = 1.0 / (mean + f64::from(eps)).sqrt();
    x.iter().zip(weight).map(|(&x, &w)| f64::from(x) * factor * f64::from(w)).collect()
}
