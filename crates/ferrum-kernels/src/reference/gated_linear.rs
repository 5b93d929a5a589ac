//! [`crate::Backend::gated_linear`]:
//! `dst[t, n] = act(Σ_c gate[n, c] · input[t, c]) · Σ_c up[n, c] · input[t, c]`

use std::f64::consts::PI;

use super::{Reference, dot};
use crate::host::HostBuffer;
use crate::params::{Activation, GatedLinear};
use crate::{PackedWeight, Result, checks};

pub(super) fn gated_linear(dst: &mut HostBuffer, p: &GatedLinear<'_, Reference>) -> Result<()> {
    let view = checks::gated_linear(dst, p)?;
    let (n, cols) = (p.gate.rows(), p.gate.cols());
    for (x, y) in view.input.chunks_exact(cols).zip(view.dst.chunks_exact_mut(n)) {
        for (i, y) in y.iter_mut().enumerate() {
            let gate = activate(p.activation, dot(p.gate.row(i), x));
            *y = (gate * dot(p.up.row(i), x)) as f32;
        }
    }
    Ok(())
}

/// The formulas of [`Activation`].
pub(super) fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
    }
}
