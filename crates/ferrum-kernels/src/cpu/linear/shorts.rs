//! Weights of single numbers rounded to integers, times activations rounded likewise: block floating
//! point (Wilkinson 1963), of 64 columns that share a scale.
//!
//! `vpmaddwd` does twice the multiplications of an `f32` multiply-add, and its sums are exact: 64
//! products of two numbers up to 5792 fit into 32 bits. A number is moved by at most half a unit,
//! 2⁻¹³·⁵ of the largest of its neighbours; a bfloat16 of that size by 2⁻⁸ of itself.
//!
//! Packed, a group of eight rows is one step of 64 columns after the other: eight scales, then
//! pairs of columns, those of the eight rows side by side.

use super::super::Isa;
use super::super::simd::Simd;
#[cfg(target_arch = "x86_64")]
use super::dots::Avx2Dots;
use super::dots::{PairDots, PortableDots, ROWS, VECTOR};
use super::panel::GROUPS;
use crate::Format;
use crate::host::Plain;
use crate::weight::dequantize_row;

/// Columns that share a scale.
pub(super) const STEP: usize = 64;

/// Largest magnitude of a rounded number: `STEP` products of two fit into 32 bits.
pub(super) const MAX: f32 = 5792.0;

/// Below this largest magnitude (where its inverse would overflow) a block counts as zero.
const NEGLIGIBLE: f32 = 1e-30;

/// Pairs of columns in a step.
pub(super) const PAIRS: usize = STEP / 2;

/// Bytes of the scales of a group.
pub(super) const SCALES: usize = ROWS * 4;

/// Bytes of a step of a packed group.
pub(super) const STEP_BYTES: usize = SCALES + PAIRS * VECTOR;

/// Steps of a panel that are gone through with all tokens before the next ones: with the activations
/// of a tile they stay in the nearest cache: they are 22 KiB.
pub(super) const PART: usize = 8;

/// Activations: `scale · q`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Block {
    /// The values, -5792 to 5792.
    pub(super) q: [i16; STEP],
    /// What a unit is worth.
    pub(super) scale: f32,
}

// SAFETY: numbers and arrays of numbers.
unsafe impl Plain for Block {}

impl Default for Block {
    fn default() -> Self {
        Block { q: [0; STEP], scale: 0.0 }
    }
}

impl Block {
    /// Rounds values. A value that is not a number makes the scale one, so that it is seen in
    /// every product.
    #[inline(always)]
    pub(super) fn round(&mut self, x: &[f32; STEP]) {
        // As integers, because there a NaN is the largest.
        let largest = x.iter().fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff));
        let largest = f32::from_bits(largest);
        let inverse = if largest > NEGLIGIBLE { MAX / largest } else { 0.0 };
        self.scale = if largest <= NEGLIGIBLE { 0.0 } else { largest / MAX };
        // Added to a number below 2²² it leaves no room for a fraction: rounding to nearest even in
        // one addition, and the integer is in the low bits.
        const WHOLE: f32 = 12_582_912.0;
        for (q, v) in self.q.iter_mut().zip(x) {
            *q = (v * inverse + WHOLE).to_bits() as i16;
        }
    }
}

#[inline(always)]
fn round(x: &[f32], blocks: &mut [Block]) {
    for (block, x) in blocks.iter_mut().zip(x.as_chunks::<STEP>().0) {
        block.round(x);
    }
}

/// Rounds and packs the rows of a group, at most eight; those missing are zero. Rows are single
/// numbers, a multiple of [`STEP`] of them; `out` takes [`STEP_BYTES`] for each step.
pub(super) fn pack_group(format: Format, rows: &[&[u8]], out: &mut [u8]) {
    let (bytes, mut block) = (STEP * format.block_bytes(), Block::default());
    for (step, out) in out.chunks_exact_mut(STEP_BYTES).enumerate() {
        out.fill(0);
        let (scales, pairs) = out.split_at_mut(SCALES);
        for (r, row) in rows.iter().enumerate() {
            let mut values = [0.0; STEP];
            dequantize_row(format, &row[step * bytes..][..bytes], &mut values)
                .expect("whole values");
            block.round(&values);
            scales[4 * r..][..4].copy_from_slice(&block.scale.to_le_bytes());
            for (pair, q) in pairs.chunks_exact_mut(VECTOR).zip(block.q.as_chunks::<2>().0) {
                pair[4 * r..][..2].copy_from_slice(&q[0].to_le_bytes());
                pair[4 * r + 2..][..2].copy_from_slice(&q[1].to_le_bytes());
            }
        }
    }
}

/// Row `r` of a packed group, as numbers.
pub(super) fn row(group: &[u8], r: usize, out: &mut [f32]) {
    for (step, out) in group.chunks_exact(STEP_BYTES).zip(out.chunks_exact_mut(STEP)) {
        let number = |at: usize| i16::from_le_bytes([step[at], step[at + 1]]);
        let scale = step[4 * r..].first_chunk().map_or(0.0, |bytes| f32::from_le_bytes(*bytes));
        for (c, out) in out.iter_mut().enumerate() {
            *out = scale * f32::from(number(SCALES + c / 2 * VECTOR + 4 * r + c % 2 * 2));
        }
    }
}

/// What a kernel needs to multiply 16 rows with some tokens.
#[derive(Clone, Copy)]
pub(super) struct ShortGemm {
    /// The packed groups, from their first step on. The second may be the first again, where a
    /// weight has no more rows.
    pub(super) groups: [*const u8; GROUPS],
    /// Steps to go through.
    pub(super) steps: usize,
    /// The activations of the first token, likewise.
    pub(super) tokens: *const Block,
    /// Blocks from a token to the next.
    pub(super) stride: usize,
    /// 16 results of the first token, added to.
    pub(super) out: *mut f32,
    /// From a token's results to those of the next.
    pub(super) out_stride: usize,
}

/// 16 rows times `T` tokens. Each sum runs over the steps in order, however many tokens there are.
///
/// # Safety
/// Every pointer of `p` must have what it says, for `T` tokens.
#[inline(always)]
unsafe fn gemm<D: PairDots, const T: usize>(p: ShortGemm) {
    for step in 0..p.steps {
        let mut sums = [[D::zero(); GROUPS]; T];
        // SAFETY: step is one of the groups' and of every token's, token t below T.
        unsafe {
            let weights = p.groups.map(|group| group.add(step * STEP_BYTES));
            let token = |t: usize| p.tokens.add(t * p.stride + step);
            for pair in 0..PAIRS {
                let at = SCALES + pair * VECTOR;
                let w = [D::load_bytes(weights[0].add(at)), D::load_bytes(weights[1].add(at))];
                for (t, sums) in sums.iter_mut().enumerate() {
                    let two = token(t).cast::<i32>().add(pair).read_unaligned();
                    for (sum, w) in sums.iter_mut().zip(w) {
                        *sum = D::dot_pair(*sum, w, two);
                    }
                }
            }
            for (t, sums) in sums.iter().enumerate() {
                let unit = D::Floats::splat((*token(t)).scale);
                for (g, sum) in sums.iter().enumerate() {
                    let out = p.out.add(t * p.out_stride + g * ROWS);
                    let scale = D::load_f32(weights[g]).mul(unit);
                    let total = D::floats(*sum).mul_add(scale, D::load_f32(out.cast()));
                    total.store(std::slice::from_raw_parts_mut(out, ROWS));
                }
            }
        }
    }
}

/// The kernels for an instruction set.
pub(super) struct ShortKernels {
    /// For 1, 2, 3, … tokens: at most six, whose twelve sums, two registers of weights, an activation
    /// and a product are the sixteen registers of AVX2.
    pub(super) gemm: &'static [unsafe fn(ShortGemm)],
    /// [`Block::round`] of many.
    round: unsafe fn(&[f32], &mut [Block]),
}

impl ShortKernels {
    /// Rounds values, [`STEP`] to a block.
    pub(super) fn round(&self, x: &[f32], blocks: &mut [Block]) {
        // SAFETY: kernels are given out for instruction sets that a stream has.
        unsafe { (self.round)(x, blocks) }
    }
}

macro_rules! compile {
    ($name:ident, $dots:ty, [$($tokens:literal),*] $(, $attribute:meta)?) => {
        mod $name {
            use super::*;

            $(#[$attribute])?
            unsafe fn tile<const T: usize>(p: ShortGemm) {
                // SAFETY: the caller's promise.
                unsafe { gemm::<$dots, T>(p) }
            }

            $(#[$attribute])?
            unsafe fn round_all(x: &[f32], blocks: &mut [Block]) {
                round(x, blocks);
            }

            pub(super) static KERNELS: ShortKernels =
                ShortKernels { gemm: &[$(tile::<$tokens>),*], round: round_all };
        }
    };
}

compile!(portable, PortableDots, [1]);
#[cfg(target_arch = "x86_64")]
compile!(avx2, Avx2Dots, [1, 2, 3, 4, 5, 6], target_feature(enable = "avx2,fma,f16c"));
#[cfg(not(target_arch = "x86_64"))]
use portable as avx2;

/// The kernels for `isa`; none where its `f32` products are as fast.
pub(super) fn kernels(isa: Isa) -> Option<&'static ShortKernels> {
    match isa {
        Isa::Portable => Some(&portable::KERNELS),
        // AVX-512 has the instruction in wider registers, which do as many numbers a cycle where
        // they are made of two narrow ones.
        Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni | Isa::Amx => Some(&avx2::KERNELS),
        Isa::NeonDot | Isa::NeonI8mm => None,
    }
}
