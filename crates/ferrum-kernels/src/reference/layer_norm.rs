//! [`crate::Backend::layer_norm`]: `y = (x - mean(x)) / sqrt(var(x) + eps) ⊙ weight + bias`

use super::Reference;
use crate::host::HostBuffer;
use crate::params::LayerNorm;
use crate::{Result, checks};

pub(super) fn layer_norm(dst: &mut HostBuffer, p: &LayerNorm<'_, Reference>) -> Result<()> {
    let view = checks::layer_norm(dst, p)?;
    for (g, y) in view.dst.chunks_exact_mut(p.width).enumerate() {
        let x: Vec<f64> = match view.src {
            Some(src) => src[g * p.width..][..p.width].iter().map(|&x| x.into()).collect(),
            None => y.iter().map(|&x| x.into()).collect(),
        };
        let n = p.width as f64;
        let mean = x.iter().sum::<f64>() / n;
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
        let factor = 1.0 / (variance + f64::from(p.eps)).sqrt();
        for (i, (y, x)) in y.iter_mut().zip(&x).enumerate() {
            let (weight, bias) = (f64::from(view.weight[i]), f64::from(view.bias[i]));
            *y = ((x - mean) * factor * weight + bias) as f32;
        }
    }
    Ok(())
}
