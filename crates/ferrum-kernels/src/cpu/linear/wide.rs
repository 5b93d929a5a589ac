//! [`super::panel::gemm`] on 512-bit registers: the 16 rows of a panel are the lanes of one.
//!
//! Half the instructions of the 256-bit kernel, and twice the registers: an activation is an operand
//! in memory that its instruction broadcasts, so eight tokens' sums fit. The `f32` operations and
//! their order are those of [`super::products`], lane by lane: results are the same to the bit.

use super::activations::Block;
use super::dots::SIGN;
use super::formats::Quants;
use super::panel::{Gemm, PANEL_ROWS, STEP_BYTES, STEP_SCALES};
use super::planes::VECTORS;
use std::arch::x86_64::*;

/// Bytes of four columns of a panel.
const VECTOR: usize = 4 * PANEL_ROWS;

/// Integer sums of `T` tokens.
type Sums<const T: usize> = [__m512i; T];

/// The 16 rows of a panel times `T` tokens.
///
/// # Safety
/// As for [`super::panel::gemm`]; and the processor must have AVX-512 F, BW and VNNI.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn gemm<Q: Quants, const T: usize>(p: Gemm) {
    let zero = if Q::SIGNED { SIGN } else { Q::ZERO };
    let mut tile = [_mm512_setzero_ps(); T];
    // SAFETY: there are 16 results of each token; step s is in the panel, and each of the T tokens
    // has a block for it.
    unsafe {
        for (t, tile) in tile.iter_mut().enumerate() {
            *tile = _mm512_loadu_ps(p.out.add(t * PANEL_ROWS));
        }
        for s in 0..p.steps {
            let quants = p.panel.quants.add(s * STEP_BYTES);
            let scales = p.panel.scales.add(s * STEP_SCALES);
            let tokens = Tokens::<T> { first: p.tokens.add(s), stride: p.stride };
            if Q::SUBS == 1 {
                let mut sums = tokens.start(zero, 0..2);
                tokens.add_products(&mut sums, quants, 0..VECTORS);
                tokens.add_scaled(&mut tile, &sums, scales);
            } else {
                let mut first = tokens.start(zero, 0..1);
                tokens.add_products(&mut first, quants, 0..VECTORS / 2);
                let mut second = tokens.start(zero, 1..2);
                tokens.add_products(&mut second, quants, VECTORS / 2..VECTORS);
                tokens.add_twice_scaled(&mut tile, &first, &second, scales);
            }
            if Q::MINS {
                tokens.add_mins::<Q>(&mut tile, p.panel.mins.add(s * STEP_SCALES));
            }
        }
        for (t, tile) in tile.iter().enumerate() {
            _mm512_storeu_ps(p.out.add(t * PANEL_ROWS), *tile);
        }
    }
}

/// The activations of a step, of `T` tokens.
struct Tokens<const T: usize> {
    first: *const Block,
    stride: usize,
}

// SAFETY of the blocks below: every token that is asked for is there (`gemm`'s promise), vectors
// and scales are those of a step of the panel, and the features are those of `gemm`.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one comment for all, above")]
impl<const T: usize> Tokens<T> {
    #[inline(always)]
    unsafe fn get(&self, t: usize) -> &Block {
        unsafe { &*self.first.add(t * self.stride) }
    }

    /// Sums that start at `-zero` times those of the activations of some halves.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn start(&self, zero: u8, halves: std::ops::Range<usize>) -> Sums<T> {
        let mut sums = [_mm512_setzero_si512(); T];
        if zero > 0 {
            // A shift, because it need not wait for what multiplies.
            let shift = _mm_cvtsi32_si128(zero.trailing_zeros() as i32);
            for (t, sums) in sums.iter_mut().enumerate() {
                for half in unsafe { &self.get(t).halves[halves.clone()] } {
                    *sums = _mm512_sub_epi32(*sums, _mm512_set1_epi32(half.all));
                }
                *sums = _mm512_sll_epi32(*sums, shift);
            }
        }
        sums
    }

    /// Adds the products of some vectors of four columns.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn add_products(
        &self,
        sums: &mut Sums<T>,
        quants: *const u8,
        vectors: std::ops::Range<usize>,
    ) {
        for v in vectors {
            unsafe {
                let weights = _mm512_loadu_si512(quants.add(v * VECTOR).cast());
                for (t, sums) in sums.iter_mut().enumerate() {
                    let four = self.get(t).q.as_ptr().add(4 * v).cast::<i32>().read_unaligned();
                    *sums = _mm512_dpbusd_epi32(*sums, weights, _mm512_set1_epi32(four));
                }
            }
        }
    }

    /// Adds the sums of 32 columns that have one scale.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn add_scaled(&self, tile: &mut [__m512; T], sums: &Sums<T>, scales: *const f32) {
        unsafe {
            let scale = _mm512_loadu_ps(scales);
            for t in 0..T {
                let scale = _mm512_mul_ps(scale, _mm512_set1_ps(self.get(t).scale));
                tile[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[t]), scale, tile[t]);
            }
        }
    }

    /// Adds the sums of 16 and 16 columns, each with a scale.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn add_twice_scaled(
        &self,
        tile: &mut [__m512; T],
        first: &Sums<T>,
        second: &Sums<T>,
        scales: *const f32,
    ) {
        unsafe {
            let scales = [_mm512_loadu_ps(scales), _mm512_loadu_ps(scales.add(PANEL_ROWS))];
            for t in 0..T {
                let sum = _mm512_mul_ps(_mm512_cvtepi32_ps(first[t]), scales[0]);
                let sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(second[t]), scales[1], sum);
                tile[t] = _mm512_fmadd_ps(sum, _mm512_set1_ps(self.get(t).scale), tile[t]);
            }
        }
    }

    /// Adds the minima times the activations' sums.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn add_mins<Q: Quants>(&self, tile: &mut [__m512; T], mins: *const f32) {
        for sub in 0..Q::SUBS {
            unsafe {
                let min = _mm512_loadu_ps(mins.add(sub * PANEL_ROWS));
                for (t, tile) in tile.iter_mut().enumerate() {
                    let token = self.get(t);
                    let sum = if Q::SUBS == 1 { token.sum } else { token.half_sum(sub) };
                    *tile = _mm512_fmadd_ps(min, _mm512_set1_ps(sum), *tile);
                }
            }
        }
    }
}
