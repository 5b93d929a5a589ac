//! Elementary functions on eight lanes, the same polynomials for every instruction set.

use super::Isa;
use super::simd::{Kernel, LANES, Simd};
use crate::params::Activation;

/// eˣ, to about 1 ulp. Below -87.3 (where eˣ leaves the normal numbers) the result is that of
/// -87.3, about 1e-38; above 88.3 that of 88.3. NaN stays NaN.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, ln 2 in two parts (Cody & Waite 1980), and the Taylor
/// polynomial of degree 7 for eʳ, whose remainder is below 6e-9 of the result.
#[inline(always)]
pub(crate) fn exp<S: Simd>(x: S) -> S {
    let c = S::splat;
    let x = c(88.3).min(c(-87.3).max(x));
    let n = x.mul(c(std::f32::consts::LOG2_E)).round();
    // 0.693359375 has few digits, so n times it is exact.
    let r = n.mul_add(c(-0.693_359_4), x);
    let r = n.mul_add(c(2.121_944_4e-4), r);
    let mut p = c(1.0 / 5040.0);
    for k in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p.mul_add(r, c(k));
    }
    p.mul(n.exp2_int())
}

/// tanh x = 1 - 2 / (e²ˣ + 1); the absolute error is below 2e-7.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(x: S) -> S {
    let one = S::splat(1.0);
    one.sub(S::splat(2.0).div(exp(x.add(x)).add(one)))
}

/// x · σ(x) = x / (1 + e⁻ˣ)
#[inline(always)]
pub(crate) fn silu<S: Simd>(x: S) -> S {
    let one = S::splat(1.0);
    x.div(exp(S::splat(0.0).sub(x)).add(one))
}

/// x/2 · (1 + tanh(√(2/π) · (x + 0.044715·x³))) = x · σ(2 · √(2/π) · (x + 0.044715·x³))
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(x: S) -> S {
    const ROOT: f32 = 0.797_884_6; // √(2/π)
    let cubic = x.mul(x).mul_add(S::splat(0.044_715), S::splat(1.0));
    let minus_z = x.mul(cubic).mul(S::splat(-2.0 * ROOT));
    x.div(exp(minus_z).add(S::splat(1.0)))
}

/// x/2 · (1 + erf(x/√2)) = max(x, 0) - |x| · Q(|x|), Q the upper tail of the normal distribution by
/// Hastings' approximation (Abramowitz & Stegun 7.1.26), whose absolute error is below 7.5e-8.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(x: S) -> S {
    let c = S::splat;
    // From 15 on the tail is far below what `x` can tell; so infinity stays what it is.
    let a = c(15.0).min(x.max(c(0.0).sub(x)));
    let z = a.mul(c(std::f32::consts::FRAC_1_SQRT_2));
    let t = c(1.0).div(z.mul_add(c(0.327_591_1), c(1.0)));
    let mut p = c(1.061_405_4);
    for k in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        p = p.mul_add(t, c(k));
    }
    let tail = p.mul(t).mul(exp(c(0.0).sub(z.mul(z)))).mul(c(0.5));
    relu(x).sub(a.mul(tail))
}

/// max(x, 0)
#[inline(always)]
pub(crate) fn relu<S: Simd>(x: S) -> S {
    S::splat(0.0).max(x)
}

/// The activation on eight lanes.
#[inline(always)]
pub(crate) fn activate<S: Simd>(activation: Activation, x: S) -> S {
    match activation {
        Activation::Silu => silu(x),
        Activation::GeluTanh => gelu_tanh(x),
        Activation::Gelu => gelu(x),
        Activation::Relu => relu(x),
    }
}

/// `gate[i] = act(gate[i]) · up[i]`; a value's result does not depend on its place in the slice.
pub(crate) fn gate(isa: Isa, activation: Activation, gate: &mut [f32], up: &[f32]) {
    isa.dispatch(Gate { activation, gate, up });
}

struct Gate<'a> {
    activation: Activation,
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Kernel for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let len = self.gate.len();
        let up = &self.up[..len];
        let (gates, gate_rest) = self.gate.as_chunks_mut::<LANES>();
        let (ups, up_rest) = up.as_chunks::<LANES>();
        for (g, u) in gates.iter_mut().zip(ups) {
            activate(self.activation, S::load(g)).mul(S::load(u)).store(g);
        }
        // The rest goes through the same eight lanes, so that it is rounded the same way.
        let (mut g, mut u) = ([0.0; LANES], [0.0; LANES]);
        g[..gate_rest.len()].copy_from_slice(gate_rest);
        u[..up_rest.len()].copy_from_slice(up_rest);
        activate(self.activation, S::load(&g)).mul(S::load(&u)).store(&mut g);
        gate_rest.copy_from_slice(&g[..gate_rest.len()]);
    }
}

/// `x[i] = act(x[i])`; a value's result does not depend on its place in the slice.
pub(crate) fn activate_all(isa: Isa, activation: Activation, x: &mut [f32]) {
    isa.dispatch(All { activation, x });
}

struct All<'a> {
    activation: Activation,
    x: &'a mut [f32],
}

impl Kernel for All<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        // One loop for each, written out: a function that is passed on would be compiled without the
        // instruction set, and each of its instructions be a call.
        macro_rules! map {
            ($f:ident) => {{
                let (eights, rest) = self.x.as_chunks_mut::<LANES>();
                for x in eights {
                    $f(S::load(x)).store(x);
                }
                // The rest goes through the same eight lanes, so that it is rounded the same way.
                let mut lanes = [0.0; LANES];
                lanes[..rest.len()].copy_from_slice(rest);
                $f(S::load(&lanes)).store(&mut lanes);
                rest.copy_from_slice(&lanes[..rest.len()]);
            }};
        }
        match self.activation {
            Activation::Silu => map!(silu),
            Activation::GeluTanh => map!(gelu_tanh),
            Activation::Gelu => map!(gelu),
            Activation::Relu => map!(relu),
        }
    }
}

#[cfg(test)]
#[path = "math_tests.rs"]
mod tests;
