//! [`crate::Backend::linear`]: `dst[t, n] (+)= Σ_c weight[n, c] · input[t, c] + bias[n]`

use super::{Reference, dot};
use crate::params::Linear;
use crate::{PackedWeight, Result, checks};

pub(super) fn linear(p: Linear<'_, '_, Reference>) -> Result<()> {
    checks::linear(&p)?;
    for o in p.outputs {
        let (n, cols) = (o.weight.rows(), o.weight.cols());
        let input = p.input.f32("linear", p.rows * cols)?;
        let bias = o.bias.map(|b| b.f32("linear", n)).transpose()?;
        let dst = o.dst.f32_mut("linear", p.rows * n)?;
        for (x, y) in input.chunks_exact(cols).zip(dst.chunks_exact_mut(n)) {
            for (i, y) in y.iter_mut().enumerate() {
                let mut sum = dot(o.weight.row(i), x);
                if let Some(bias) = bias {
                    sum += f64::from(bias[i]);
                }
                if o.accumulate {
                    sum += f64::from(*y);
                }
                *y = sum as f32;
            }
        }
    }
    Ok(())
}
