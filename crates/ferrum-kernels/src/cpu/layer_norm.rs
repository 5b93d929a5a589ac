//! Layer normalisation.

use super::shared::SharedSlice;
use super::simd::{Kernel, LANES, Simd};
use super::{Cpu, CpuStream, split_rows};
use crate::host::HostBuffer;
use crate::params::LayerNorm;
use crate::{Result, checks};

/// [`crate::Backend::layer_norm`].
pub(super) fn layer_norm(
    s: &mut CpuStream,
    dst: &mut HostBuffer,
    p: &LayerNorm<'_, Cpu>,
) -> Result<()> {
    let view = checks::layer_norm(dst, p)?;
    let (width, isa) = (p.width, s.isa);
    let dst = SharedSlice::new(view.dst);
    split_rows(&mut s.team, p.groups, width, &|groups| {
        let values = groups.start * width..groups.end * width;
        // SAFETY: ranges of groups are disjoint.
        let dst = unsafe { dst.range_mut(values.clone()) };
        if let Some(src) = view.src {
            dst.copy_from_slice(&src[values]);
        }
        isa.dispatch(Groups { x: dst, weight: view.weight, bias: view.bias, eps: p.eps });
    });
    Ok(())
}

/// Some of the groups, in place.
struct Groups<'a> {
    /// `[groups, width]`
    x: &'a mut [f32],
    /// `[width]`
    weight: &'a [f32],
    /// `[width]`
    bias: &'a [f32],
    eps: f32,
}

impl Kernel for Groups<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let width = self.weight.len();
        for x in self.x.chunks_exact_mut(width) {
            // The variance from what is left without the mean: of squares, it would cancel.
            let mean = sum::<S>(x, |x| x, |x| x) / width as f32;
            let m = S::splat(mean);
            let squares = sum::<S>(
                x,
                |x| {
                    let x = x.sub(m);
                    x.mul(x)
                },
                |x| (x - mean) * (x - mean),
            );
            let factor = 1.0 / (squares / width as f32 + self.eps).sqrt();
            scale::<S>(x, self.weight, self.bias, mean, factor);
        }
    }
}

/// `Σ f(x)`; `f` on eight lanes, `one` on one.
#[inline(always)]
fn sum<S: Simd>(x: &[f32], f: impl Fn(S) -> S, one: impl Fn(f32) -> f32) -> f32 {
    // Four sums, so that an addition need not wait for the one before.
    const SUMS: usize = 4;
    let mut sums = [S::splat(0.0); SUMS];
    let (blocks, rest) = x.as_chunks::<{ SUMS * LANES }>();
    for block in blocks {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = sum.add(f(S::load(&block[i * LANES..])));
        }
    }
    let total = sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum();
    total + rest.iter().map(|&x| one(x)).sum::<f32>()
}

/// `x = (x - mean) · factor · weight + bias`
#[inline(always)]
fn scale<S: Simd>(x: &mut [f32], weight: &[f32], bias: &[f32], mean: f32, factor: f32) {
    let (m, f) = (S::splat(mean), S::splat(factor));
    let (xs, x_rest) = x.as_chunks_mut::<LANES>();
    let (weights, weight_rest) = weight.as_chunks::<LANES>();
    let (biases, bias_rest) = bias.as_chunks::<LANES>();
    for ((x, w), b) in xs.iter_mut().zip(weights).zip(biases) {
        S::load(x).sub(m).mul(f).mul_add(S::load(w), S::load(b)).store(x);
    }
    for ((x, w), b) in x_rest.iter_mut().zip(weight_rest).zip(bias_rest) {
        *x = (*x - mean) * factor * w + b;
    }
}
