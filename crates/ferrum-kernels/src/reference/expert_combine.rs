//! [`crate::Backend::expert_combine`]:
//! `dst[t, n] (+)= Σ_j weights[t, j] · Σ_c weight[ids[t, j]][n, c] · input[t, j, c]`

use super::{Reference, dot};
use crate::host::HostBuffer;
use crate::params::ExpertCombine;
use crate::{PackedWeight, Result, checks};

pub(super) fn expert_combine(dst: &mut HostBuffer, p: &ExpertCombine<'_, Reference>) -> Result<()> {
    let view = checks::expert_combine(dst, p)?;
    let (n, cols) = (p.weight.rows(), p.weight.cols());
    for (t, y) in view.dst.chunks_exact_mut(n).enumerate() {
        for (i, y) in y.iter_mut().enumerate() {
            let mut sum = if p.accumulate { f64::from(*y) } else { 0.0 };
            for slot in t * p.used..(t + 1) * p.used {
                let row = p.weight.row(view.ids[slot] as usize * n + i);
                let x = &view.input[slot * cols..][..cols];
                sum += f64::from(view.weights[slot]) * dot(row, x);
            }
            *y = sum as f32;
        }
    }
    Ok(())
}
