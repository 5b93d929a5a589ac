//! [`crate::Backend::gated_linear`]:
//! `dst[t, n] = act(Σ_c gate[n, c] · input[t, c]) · Σ_c up[n, c] · input[t, c]`

use std::f64::consts::{FRAC_1_SQRT_2, PI};

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
        // Of the negative side, for erfc keeps its digits where 1 + erf loses them.
        Activation::Gelu => 0.5 * x * erfc(-x * FRAC_1_SQRT_2),
        Activation::Relu => x.max(0.0),
    }
}

/// `1 - erf(x)`: below 2.5 by the series of erf (Abramowitz & Stegun 7.1.6), whose terms are all of
/// one sign; above by the continued fraction of erfc (7.1.14), from its 80th step on.
fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    let gauss = (-x * x).exp();
    if x < 2.5 {
        let (mut term, mut sum) = (x, x);
        for n in 1..120 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        return 1.0 - 2.0 / PI.sqrt() * gauss * sum;
    }
    let fraction = (1..=80).rev().fold(x, |rest, n| x + f64::from(n) / 2.0 / rest);
    gauss / (PI.sqrt() * fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erfc_of_known_values() {
        // Abramowitz & Stegun, table 7.1 (erf), and Wolfram's functions site for the tail.
        for (x, want) in [
            (0.0, 1.0),
            (0.5, 0.479_500_122_186_953_5),
            (-1.0, 1.842_700_792_949_715),
            (2.0, 0.004_677_734_981_047_266),
            (3.0, 2.209_049_699_858_544e-5),
            (5.0, 1.537_459_794_428_035e-12),
        ] {
            let got = erfc(x);
            assert!((got - want).abs() <= 1e-11 * want, "erfc({x}) = {got}, not {want}");
        }
    }
}
