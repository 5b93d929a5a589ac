//! The heart of every kernel: 32 columns of some rows times 32 activations of some tokens.
//!
//! The integer sums of 32 (or 16) columns are exact. The order of the `f32` operations that follow
//! is fixed here, per row and token, whatever is computed beside them: so a token's result does not
//! depend on how many others are in the step.

#![allow(clippy::needless_range_loop, reason = "t and r index several arrays alike")]

use super::super::simd::Simd;
use super::activations::Block;
use super::dots::Dots;
use super::formats::{Quants, Scales};
use super::planes::VECTORS;
use std::ops::Range;

/// 32 columns of some groups of eight rows, unpacked.
pub(super) trait Step<D: Dots> {
    /// The integer sums over halves of the columns, of `R` groups and `T` tokens.
    ///
    /// # Safety
    /// There must be as many groups and tokens.
    unsafe fn sums<Q: Quants, const R: usize, const T: usize>(
        &self,
        tokens: Tokens,
        halves: Range<usize>,
    ) -> Sums<D, R, T>;
    /// Scale of group `r`, of all 32 columns or of their half `sub`.
    fn scale(&self, sub: usize, r: usize) -> D::Floats;
    /// Minimum, likewise.
    fn min(&self, sub: usize, r: usize) -> D::Floats;
}

/// A [`Step`] in registers, of one group.
pub(super) struct Unpacked<D: Dots> {
    pub(super) vectors: [D::Bytes; VECTORS],
    pub(super) scales: Scales<D>,
}

impl<D: Dots> Step<D> for Unpacked<D> {
    #[inline(always)]
    unsafe fn sums<Q: Quants, const R: usize, const T: usize>(
        &self,
        tokens: Tokens,
        halves: Range<usize>,
    ) -> Sums<D, R, T> {
        // SAFETY: the caller's promise.
        unsafe { sums::<D, Q, R, T>(|v, _| self.vectors[v], tokens, halves) }
    }

    #[inline(always)]
    fn scale(&self, sub: usize, _r: usize) -> D::Floats {
        self.scales.scale[sub]
    }

    #[inline(always)]
    fn min(&self, sub: usize, _r: usize) -> D::Floats {
        self.scales.min[sub]
    }
}

/// Integer sums of `R` groups of rows and `T` tokens.
pub(super) type Sums<D, const R: usize, const T: usize> = [[<D as Dots>::Ints; R]; T];

/// Results of `R` groups of rows and `T` tokens.
pub(super) type Tile<D, const R: usize, const T: usize> = [[<D as Dots>::Floats; R]; T];

/// The activations of 32 columns, of some tokens.
#[derive(Clone, Copy)]
pub(super) struct Tokens {
    /// Those of the first.
    pub(super) first: *const Block,
    /// Blocks from a token to the next.
    pub(super) stride: usize,
}

impl Tokens {
    /// Those of token `t`.
    ///
    /// # Safety
    /// There must be such a token, and it must stay for as long as the result is used.
    #[inline(always)]
    pub(super) unsafe fn get<'a>(self, t: usize) -> &'a Block {
        // SAFETY: the caller's promise.
        unsafe { &*self.first.add(t * self.stride) }
    }
}

/// Adds the products of 32 columns to a tile.
///
/// # Safety
/// There must be `R` groups in the step, and `T` tokens.
#[inline(always)]
pub(super) unsafe fn accumulate<D: Dots, Q: Quants, const R: usize, const T: usize>(
    tile: &mut Tile<D, R, T>,
    step: &impl Step<D>,
    tokens: Tokens,
) {
    let splat = D::Floats::splat;
    // SAFETY: the caller's promise; token t is below T, here and in the functions called.
    unsafe {
        if Q::SUBS == 1 {
            let sums = step.sums::<Q, R, T>(tokens, 0..2);
            for t in 0..T {
                let unit = splat(tokens.get(t).scale);
                for r in 0..R {
                    let scale = step.scale(0, r).mul(unit);
                    tile[t][r] = D::floats(sums[t][r]).mul_add(scale, tile[t][r]);
                }
            }
        } else {
            let first = step.sums::<Q, R, T>(tokens, 0..1);
            let second = step.sums::<Q, R, T>(tokens, 1..2);
            for t in 0..T {
                let unit = splat(tokens.get(t).scale);
                for r in 0..R {
                    let sum = D::floats(first[t][r]).mul(step.scale(0, r));
                    let sum = D::floats(second[t][r]).mul_add(step.scale(1, r), sum);
                    tile[t][r] = sum.mul_add(unit, tile[t][r]);
                }
            }
        }
        if Q::MINS {
            add_mins::<D, Q, R, T>(tile, step, tokens);
        }
    }
}

/// Adds the minima times the activations' sums.
///
/// # Safety
/// There must be `T` tokens.
#[inline(always)]
unsafe fn add_mins<D: Dots, Q: Quants, const R: usize, const T: usize>(
    tile: &mut Tile<D, R, T>,
    step: &impl Step<D>,
    tokens: Tokens,
) {
    for t in 0..T {
        // SAFETY: t < T.
        let token = unsafe { tokens.get(t) };
        for sub in 0..Q::SUBS {
            let sum = if Q::SUBS == 1 { token.sum } else { token.half_sum(sub) };
            for r in 0..R {
                tile[t][r] = step.min(sub, r).mul_add(D::Floats::splat(sum), tile[t][r]);
            }
        }
    }
}

/// The four activations that meet vector `v`.
#[inline(always)]
fn four(token: &Block, v: usize) -> i32 {
    let q = &token.q[4 * v..4 * v + 4];
    i32::from_ne_bytes([q[0] as u8, q[1] as u8, q[2] as u8, q[3] as u8])
}

/// [`Step::sums`] of vectors in the order of their columns: `vector(v, r)` has the columns `4v` to
/// `4v + 3` of group `r`.
///
/// # Safety
/// There must be `T` tokens.
#[inline(always)]
pub(super) unsafe fn sums<D: Dots, Q: Quants, const R: usize, const T: usize>(
    vector: impl Fn(usize, usize) -> D::Bytes,
    tokens: Tokens,
    halves: Range<usize>,
) -> Sums<D, R, T> {
    let mut sums = [[D::zero(); R]; T];
    // SAFETY: the caller's promise.
    unsafe {
        if Q::SIGNED {
            dots_signed::<D, R, T>(&mut sums, vector, tokens, halves);
        } else if halves.len() == 1 || D::sums_hold_32(Q::ZERO, Q::MAX) {
            dots::<D, Q, R, T>(&mut sums, vector, tokens, halves);
        } else {
            for half in halves {
                dots::<D, Q, R, T>(&mut sums, &vector, tokens, half..half + 1);
            }
        }
    }
    sums
}

/// Adds the integer sums over half or all of the 32 columns of unsigned quants, minus the zero
/// point's share.
///
/// # Safety
/// There must be `T` tokens.
#[inline(always)]
unsafe fn dots<D: Dots, Q: Quants, const R: usize, const T: usize>(
    ints: &mut Sums<D, R, T>,
    vector: impl Fn(usize, usize) -> D::Bytes,
    tokens: Tokens,
    halves: Range<usize>,
) {
    let mut sums = [[D::start(0, &[]); R]; T];
    // SAFETY: t < T.
    unsafe {
        for (t, sums) in sums.iter_mut().enumerate() {
            *sums = [D::start(Q::ZERO, &tokens.get(t).halves[halves.clone()]); R];
        }
        for v in halves.start * VECTORS / 2..halves.end * VECTORS / 2 {
            for t in 0..T {
                let a = four(tokens.get(t), v);
                for r in 0..R {
                    sums[t][r] = D::dot(sums[t][r], vector(v, r), a);
                }
            }
        }
    }
    for t in 0..T {
        for r in 0..R {
            ints[t][r] = D::finish(ints[t][r], sums[t][r]);
        }
    }
}

/// Integer sums over half or all of the 32 columns of signed quants.
///
/// # Safety
/// There must be `T` tokens.
#[inline(always)]
unsafe fn dots_signed<D: Dots, const R: usize, const T: usize>(
    sums: &mut Sums<D, R, T>,
    vector: impl Fn(usize, usize) -> D::Bytes,
    tokens: Tokens,
    halves: Range<usize>,
) {
    // SAFETY: t < T.
    unsafe {
        for (t, sums) in sums.iter_mut().enumerate() {
            *sums = [D::start_signed(&tokens.get(t).halves[halves.clone()]); R];
        }
        for v in halves.start * VECTORS / 2..halves.end * VECTORS / 2 {
            for t in 0..T {
                let a = four(tokens.get(t), v);
                for r in 0..R {
                    sums[t][r] = D::dot_signed(sums[t][r], vector(v, r), a);
                }
            }
        }
    }
}
