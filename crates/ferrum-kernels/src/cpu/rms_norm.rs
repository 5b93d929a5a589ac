//! Root-mean-square normalisation.

use super::shared::SharedSlice;
use super::simd::{Kernel, LANES, Simd};
use super::{Cpu, CpuStream, split_rows};
use crate::host::HostBuffer;
use crate::params::RmsNorm;
use crate::{Result, checks};

/// [`crate::Backend::rms_norm`].
pub(super) fn rms_norm(
    s: &mut CpuStream,
    dst: &mut HostBuffer,
    p: &RmsNorm<'_, Cpu>,
) -> Result<()> {
    let view = checks::rms_norm(dst, p)?;
    let (width, isa) = (p.width, s.isa);
    let dst = SharedSlice::new(view.dst);
    split_rows(&mut s.team, p.groups, width, &|groups| {
        let values = groups.start * width..groups.end * width;
        isa.dispatch(Groups {
            src: view.src.map(|src| &src[values.clone()]),
            // SAFETY: ranges of groups are disjoint.
            dst: unsafe { dst.range_mut(values) },
            weight: view.weight,
            eps: p.eps,
            accumulate: p.accumulate,
        });
    });
    Ok(())
}

/// Some of the groups.
struct Groups<'a> {
    /// `[groups, width]`; `None` where `dst` is the source.
    src: Option<&'a [f32]>,
    /// `[groups, width]`
    dst: &'a mut [f32],
    /// `[width]`
    weight: &'a [f32],
    eps: f32,
    accumulate: bool,
}

impl Kernel for Groups<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let width = self.weight.len();
        for (g, dst) in self.dst.chunks_exact_mut(width).enumerate() {
            match self.src {
                None => normalise::<S>(dst, self.weight, self.eps),
                Some(src) => {
                    let src = &src[g * width..][..width];
                    let factor = factor::<S>(src, self.eps);
                    if self.accumulate {
                        zip::<S>(dst, src, self.weight, |y, x, w| x.mul(factor).mul_add(w, y));
                    } else {
                        zip::<S>(dst, src, self.weight, |_, x, w| x.mul(factor).mul(w));
                    }
                }
            }
        }
    }
}

/// `x = x / sqrt(mean(x²) + eps) ⊙ weight`
#[inline(always)]
pub(super) fn normalise<S: Simd>(x: &mut [f32], weight: &[f32], eps: f32) {
    let factor = factor::<S>(x, eps);
    map::<S>(x, weight, |x, w| x.mul(factor).mul(w));
}

/// `1 / sqrt(mean(x²) + eps)` in all lanes.
#[inline(always)]
fn factor<S: Simd>(x: &[f32], eps: f32) -> S {
    // Four sums, so that an addition need not wait for the one before.
    const SUMS: usize = 4;
    let mut sums = [S::splat(0.0); SUMS];
    let (blocks, rest) = x.as_chunks::<{ SUMS * LANES }>();
    for block in blocks {
        for (i, sum) in sums.iter_mut().enumerate() {
            let x = S::load(&block[i * LANES..]);
            *sum = x.mul_add(x, *sum);
        }
    }
    let total = sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum();
    let rest: f32 = rest.iter().map(|x| x * x).sum();
    let mean = (total + rest) / x.len() as f32;
    S::splat(1.0 / (mean + eps).sqrt())
}

/// `dst = f(dst, weight)`
#[inline(always)]
fn map<S: Simd>(dst: &mut [f32], weight: &[f32], f: impl Fn(S, S) -> S) {
    let (dst, dst_rest) = dst.as_chunks_mut::<LANES>();
    let (weight, weight_rest) = weight.as_chunks::<LANES>();
    for (d, w) in dst.iter_mut().zip(weight) {
        f(S::load(d), S::load(w)).store(d);
    }
    for (d, &w) in dst_rest.iter_mut().zip(weight_rest) {
        *d = first(f(S::splat(*d), S::splat(w)));
    }
}

/// `dst = f(dst, src, weight)`
#[inline(always)]
fn zip<S: Simd>(dst: &mut [f32], src: &[f32], weight: &[f32], f: impl Fn(S, S, S) -> S) {
    let (dst, dst_rest) = dst.as_chunks_mut::<LANES>();
    let (src, src_rest) = src.as_chunks::<LANES>();
    let (weight, weight_rest) = weight.as_chunks::<LANES>();
    for ((d, x), w) in dst.iter_mut().zip(src).zip(weight) {
        f(S::load(d), S::load(x), S::load(w)).store(d);
    }
    for ((d, &x), &w) in dst_rest.iter_mut().zip(src_rest).zip(weight_rest) {
        *d = first(f(S::splat(*d), S::splat(x), S::splat(w)));
    }
}

/// The first lane.
#[inline(always)]
fn first<S: Simd>(x: S) -> f32 {
    let mut lanes = [0.0; LANES];
    x.store(&mut lanes);
    lanes[0]
}
