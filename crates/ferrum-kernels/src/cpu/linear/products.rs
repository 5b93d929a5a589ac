//! The heart of every kernel: 32 columns of some rows times 32 activations of some tokens.
//!
//! The integer sums of 32 (or 16) columns are exact. The order of the `f32` operations that follow
//! is fixed here, per row and token, whatever is computed beside them: so a token's result does not
//! depend on how many others are in the step.

use super::super::simd::Simd;
use super::activations::Block;
use super::dots::Dots;
use super::formats::{Quants, Scales};
use super::planes::{STEP, VECTORS};

/// 32 columns of `R` groups of eight rows, unpacked.
pub(super) trait Step<D: Dots> {
    /// Vector `v` (columns `4v` to `4v + 3`) of group `r`.
    fn vector(&self, v: usize, r: usize) -> D::Bytes;
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
    fn vector(&self, v: usize, _r: usize) -> D::Bytes {
        self.vectors[v]
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

/// Results of `R` groups of rows and `T` tokens.
pub(super) type Tile<D, const R: usize, const T: usize> = [[<D as Dots>::Floats; R]; T];

/// Integer sums of `R` groups of rows and `T` tokens.
type IntTile<D, const R: usize, const T: usize> = [[<D as Dots>::Ints; R]; T];

/// Adds the products of 32 columns to a tile.
#[inline(always)]
pub(super) fn accumulate<D: Dots, Q: Quants, const R: usize, const T: usize>(
    tile: &mut Tile<D, R, T>,
    step: &impl Step<D>,
    tokens: [&Block; T],
) {
    const HALF: usize = VECTORS / 2;
    let splat = D::Floats::splat;
    if Q::SUBS == 1 {
        let sums = if Q::SIGNED {
            dots_signed::<D, R, T>(step, tokens)
        } else if D::sums_hold_32(Q::ZERO, Q::MAX) {
            dots::<D, Q, R, T>(step, tokens, 0, VECTORS)
        } else {
            let low = dots::<D, Q, R, T>(step, tokens, 0, HALF);
            let high = dots::<D, Q, R, T>(step, tokens, HALF, VECTORS);
            std::array::from_fn(|t| std::array::from_fn(|r| D::add(low[t][r], high[t][r])))
        };
        for t in 0..T {
            for r in 0..R {
                let scale = step.scale(0, r).mul(splat(tokens[t].scale));
                tile[t][r] = D::floats(sums[t][r]).mul_add(scale, tile[t][r]);
            }
        }
    } else {
        let low = dots::<D, Q, R, T>(step, tokens, 0, HALF);
        let high = dots::<D, Q, R, T>(step, tokens, HALF, VECTORS);
        for t in 0..T {
            for r in 0..R {
                let sum = D::floats(low[t][r]).mul(step.scale(0, r));
                let sum = D::floats(high[t][r]).mul_add(step.scale(1, r), sum);
                tile[t][r] = sum.mul_add(splat(tokens[t].scale), tile[t][r]);
            }
        }
    }
    if Q::MINS {
        for t in 0..T {
            for sub in 0..Q::SUBS {
                let sum = if Q::SUBS == 1 { tokens[t].sum } else { tokens[t].half_sum(sub) };
                for r in 0..R {
                    tile[t][r] = step.min(sub, r).mul_add(splat(sum), tile[t][r]);
                }
            }
        }
    }
}

/// The four activations that meet vector `v`.
#[inline(always)]
fn four(token: &Block, v: usize) -> i32 {
    const { assert!(STEP == 4 * VECTORS) };
    let q = &token.q[4 * v..4 * v + 4];
    i32::from_ne_bytes([q[0] as u8, q[1] as u8, q[2] as u8, q[3] as u8])
}

/// Integer sums over the vectors `from..to` of unsigned quants, minus the zero point's share.
#[inline(always)]
fn dots<D: Dots, Q: Quants, const R: usize, const T: usize>(
    step: &impl Step<D>,
    tokens: [&Block; T],
    from: usize,
    to: usize,
) -> IntTile<D, R, T> {
    let pairs = from / (VECTORS / 2)..to / (VECTORS / 2);
    let mut sums: [[D::Sums; R]; T] = std::array::from_fn(|t| {
        std::array::from_fn(|_| D::start(Q::ZERO, &tokens[t].pairs[pairs.clone()]))
    });
    for v in from..to {
        let weights: [D::Bytes; R] = std::array::from_fn(|r| step.vector(v, r));
        for t in 0..T {
            let a = four(tokens[t], v);
            for r in 0..R {
                sums[t][r] = D::dot(sums[t][r], weights[r], a);
            }
        }
    }
    sums.map(|row| row.map(|s| D::finish(s)))
}

/// Integer sums over 32 columns of signed quants.
#[inline(always)]
fn dots_signed<D: Dots, const R: usize, const T: usize>(
    step: &impl Step<D>,
    tokens: [&Block; T],
) -> IntTile<D, R, T> {
    let mut sums: IntTile<D, R, T> =
        std::array::from_fn(|t| std::array::from_fn(|_| D::start_signed(&tokens[t].pairs)));
    for v in 0..VECTORS {
        let weights: [D::Bytes; R] = std::array::from_fn(|r| step.vector(v, r));
        for t in 0..T {
            let a = four(tokens[t], v);
            for r in 0..R {
                sums[t][r] = D::dot_signed(sums[t][r], weights[r], a);
            }
        }
    }
    sums
}
