//! Rotary position embedding.

use super::rms_norm::normalise;
use super::shared::SharedSlice;
use super::simd::{Kernel, LANES, Simd};
use super::{Cpu, CpuStream, split_rows};
use crate::Result;
use crate::checks::{self, RopeView};
use crate::params::{Rope, RopeStyle};

/// [`crate::Backend::rope`].
pub(super) fn rope(s: &mut CpuStream, p: Rope<'_, '_, Cpu>) -> Result<()> {
    let Rope { rows, head_dim, rotary_dim, style, eps, .. } = p;
    let isa = s.isa;
    let RopeView { positions, table, inputs } = checks::rope(p)?;
    let all: usize = inputs.iter().map(|input| input.heads * head_dim).sum();
    let inputs: Vec<_> = inputs
        .into_iter()
        .map(|input| (SharedSlice::new(input.x), input.heads * head_dim, input.norm))
        .collect();
    split_rows(&mut s.team, rows, all, &|rows| {
        for row in rows {
            let position = positions[row] as usize;
            for &(ref x, width, norm) in &inputs {
                isa.dispatch(Token {
                    table: &table[position * rotary_dim..][..rotary_dim],
                    // SAFETY: each row is in one range of rows only.
                    heads: unsafe { x.range_mut(row * width..(row + 1) * width) },
                    head_dim,
                    style,
                    norm: norm.map(|weight| (weight, eps)),
                });
            }
        }
    });
    Ok(())
}

/// The heads of one token.
struct Token<'a> {
    /// Cosine and sine of each pair, `[rotary_dim / 2, 2]`.
    table: &'a [f32],
    /// `[heads, head_dim]`
    heads: &'a mut [f32],
    head_dim: usize,
    style: RopeStyle,
    /// Weight `[head_dim]` and epsilon of a norm of each head.
    norm: Option<(&'a [f32], f32)>,
}

impl Kernel for Token<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        if let Some((weight, eps)) = self.norm {
            let heads = self.heads.chunks_exact_mut(self.head_dim);
            heads.for_each(|head| normalise::<S>(head, weight, eps));
        }
        let half = self.table.len() / 2;
        // Eight pairs of all heads at a time, so that their cosines and sines are read once.
        for first in (0..half).step_by(LANES) {
            let pairs = LANES.min(half - first);
            let (cos, sin) = load_pairs::<S>(&self.table[2 * first..][..2 * pairs]);
            for head in self.heads.chunks_exact_mut(self.head_dim) {
                match self.style {
                    RopeStyle::Interleaved => {
                        let x = &mut head[2 * first..][..2 * pairs];
                        let (a, b) = load_pairs::<S>(x);
                        let (a, b) = rotate(a, b, cos, sin);
                        store_pairs(a, b, x);
                    }
                    RopeStyle::Split => {
                        let (low, high) = head.split_at_mut(half);
                        let (low, high) = (&mut low[first..][..pairs], &mut high[first..][..pairs]);
                        let (a, b) = rotate(load_some(low), load_some(high), cos, sin);
                        store_some::<S>(a, low);
                        store_some::<S>(b, high);
                    }
                }
            }
        }
    }
}

/// `(a·cos - b·sin, a·sin + b·cos)`
#[inline(always)]
fn rotate<S: Simd>(a: S, b: S, cos: S, sin: S) -> (S, S) {
    let minus_b = S::splat(0.0).sub(b);
    (minus_b.mul_add(sin, a.mul(cos)), a.mul_add(sin, b.mul(cos)))
}

/// Up to eight values; the other lanes are zero.
#[inline(always)]
fn load_some<S: Simd>(src: &[f32]) -> S {
    if src.len() == LANES {
        return S::load(src);
    }
    let mut lanes = [0.0; LANES];
    lanes[..src.len()].copy_from_slice(src);
    S::load(&lanes)
}

/// The first lanes, as many as `dst` has room for.
#[inline(always)]
fn store_some<S: Simd>(x: S, dst: &mut [f32]) {
    if dst.len() == LANES {
        return x.store(dst);
    }
    let mut lanes = [0.0; LANES];
    x.store(&mut lanes);
    dst.copy_from_slice(&lanes[..dst.len()]);
}

/// The even and the odd ones of up to sixteen values; the other lanes are zero.
#[inline(always)]
fn load_pairs<S: Simd>(src: &[f32]) -> (S, S) {
    let (mut even, mut odd) = ([0.0; LANES], [0.0; LANES]);
    for (i, pair) in src.as_chunks::<2>().0.iter().enumerate() {
        even[i] = pair[0];
        odd[i] = pair[1];
    }
    (S::load(&even), S::load(&odd))
}

/// The inverse of [`load_pairs`].
#[inline(always)]
fn store_pairs<S: Simd>(even: S, odd: S, dst: &mut [f32]) {
    let (mut evens, mut odds) = ([0.0; LANES], [0.0; LANES]);
    even.store(&mut evens);
    odd.store(&mut odds);
    for (i, pair) in dst.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        *pair = [evens[i], odds[i]];
    }
}
