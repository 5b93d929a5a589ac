//! Weights in F32, F16 and BF16: eight rows interleaved by one column, times `f32` activations.
//!
//! Each sum runs over the columns in order, however many tokens there are, so results are the same to
//! the bit.

use super::super::simd::Simd;
use super::dots::{Dots, ROWS};
use super::gemv::prefetch;
use super::panel::{GROUPS, PANEL_ROWS};
use half::{bf16, f16};

/// A weight's element.
pub(super) trait Element: 'static {
    /// Bytes of one.
    const BYTES: usize;

    /// Eight, as floats.
    ///
    /// # Safety
    /// `8 · BYTES` bytes must be readable.
    unsafe fn load<D: Dots>(p: *const u8) -> D::Floats;
}

impl Element for f32 {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load<D: Dots>(p: *const u8) -> D::Floats {
        // SAFETY: the caller's promise.
        unsafe { D::load_f32(p) }
    }
}

impl Element for f16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<D: Dots>(p: *const u8) -> D::Floats {
        // SAFETY: the caller's promise.
        unsafe { D::load_f16(p) }
    }
}

impl Element for bf16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<D: Dots>(p: *const u8) -> D::Floats {
        // SAFETY: the caller's promise.
        unsafe { D::load_bf16(p) }
    }
}

/// Columns after which memory is asked for again: a cache line of the narrowest element.
const FETCH: usize = 4;

/// What a kernel needs to multiply 16 rows with some tokens.
#[derive(Clone, Copy)]
pub(super) struct FloatGemm {
    /// The packed groups, each `cols` times eight elements. The second may be the first again,
    /// where a weight has no more rows.
    pub(super) groups: [*const u8; GROUPS],
    /// Columns.
    pub(super) cols: usize,
    /// `[tokens][cols]`
    pub(super) tokens: *const f32,
    /// `[tokens][16 rows]`, overwritten.
    pub(super) out: *mut f32,
}

/// 16 rows times `T` tokens.
///
/// # Safety
/// Every pointer of `p` must have what it says, for `T` tokens.
#[inline(always)]
pub(super) unsafe fn gemm<D: Dots, E: Element, const T: usize>(p: FloatGemm) {
    let mut tile = [[D::Floats::splat(0.0); GROUPS]; T];
    for first in (0..p.cols).step_by(FETCH) {
        for group in p.groups {
            prefetch::<D>(group.wrapping_add(first * ROWS * E::BYTES), FETCH * ROWS * E::BYTES);
        }
        for k in first..p.cols.min(first + FETCH) {
            // SAFETY: k is a column of the groups and of every token.
            unsafe {
                let at = k * ROWS * E::BYTES;
                let weights =
                    [E::load::<D>(p.groups[0].add(at)), E::load::<D>(p.groups[1].add(at))];
                for (t, sums) in tile.iter_mut().enumerate() {
                    let x = D::Floats::splat(*p.tokens.add(t * p.cols + k));
                    for (sum, w) in sums.iter_mut().zip(weights) {
                        *sum = w.mul_add(x, *sum);
                    }
                }
            }
        }
    }
    for (t, sums) in tile.into_iter().enumerate() {
        // SAFETY: room for 16 results of each token.
        let out = unsafe { std::slice::from_raw_parts_mut(p.out.add(t * PANEL_ROWS), PANEL_ROWS) };
        for (out, sum) in out.chunks_exact_mut(ROWS).zip(sums) {
            sum.store(out);
        }
    }
}
