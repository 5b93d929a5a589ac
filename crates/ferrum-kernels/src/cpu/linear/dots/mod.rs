//! Dot products of packed weights with `i8` activations, eight rows side by side, as plain Rust or
//! as vector instructions. Kernels are written once, generic over [`Dots`].
//!
//! Integer sums are exact, and every instruction set yields the same ones; only the order of the
//! `f32` operations around them matters, and that is the kernels'.

mod portable;

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub(super) use neon::{DotDots, MatrixDots};
pub(super) use portable::PortableDots;
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{AmxDots, Avx2Dots, AvxVnniDots, SIGN, VnniDots};

use super::super::simd::Simd;
use super::activations::HalfSum;
use super::formats::Quants;
use super::planes::VECTORS;
use super::products::{self, Sums, Tokens};
use std::ops::Range;

/// Rows of a group: the lanes of a [`Simd`] value.
pub(super) const ROWS: usize = super::super::simd::LANES;

/// Bytes of a [`Dots::Bytes`]: four columns of eight rows, row after row.
pub(super) const VECTOR: usize = 4 * ROWS;

/// The instructions that the kernels of packed weights are made of.
///
/// As with [`Simd`], every method is inlined into a function that enables the instruction set, and
/// values exist only there.
pub(super) trait Dots: 'static {
    /// Eight `f32` lanes, one of each row.
    type Floats: Simd;
    /// Eight `i32` lanes.
    type Ints: Copy;
    /// 32 bytes: four columns of eight rows.
    type Bytes: Copy;
    /// Running sums of unsigned weights times activations.
    type Sums: Copy;

    /// Whether [`Dots::dot`] may be repeated for eight vectors (32 columns) where weights lie in
    /// `0..=max` and `zero` is subtracted; if not, then for four.
    fn sums_hold_32(zero: u8, max: u8) -> bool;

    /// Eight single-precision numbers.
    ///
    /// # Safety
    /// 32 bytes must be readable; no alignment is needed.
    unsafe fn load_f32(p: *const u8) -> Self::Floats;

    /// Eight half-precision numbers, widened.
    ///
    /// # Safety
    /// 16 bytes must be readable; no alignment is needed.
    unsafe fn load_f16(p: *const u8) -> Self::Floats;

    /// Eight bfloat16 numbers, widened.
    ///
    /// # Safety
    /// 16 bytes must be readable; no alignment is needed.
    unsafe fn load_bf16(p: *const u8) -> Self::Floats;

    /// Eight unsigned bytes, the lowest that of row 0, as floats.
    fn bytes_to_floats(bytes: u64) -> Self::Floats;

    /// Eight exponents `e` of MXFP4, each as `2^(e - 128)`.
    ///
    /// # Safety
    /// 8 bytes must be readable.
    unsafe fn load_e8m0(p: *const u8) -> Self::Floats;

    /// 32 bytes.
    ///
    /// # Safety
    /// They must be readable; no alignment is needed.
    unsafe fn load_bytes(p: *const u8) -> Self::Bytes;

    /// Writes 32 bytes.
    ///
    /// # Safety
    /// They must be writable; no alignment is needed.
    unsafe fn store_bytes(p: *mut u8, v: Self::Bytes);

    /// `(v >> shift) & mask` of each byte, or `(v << -shift) & mask`. The mask must remove the bits
    /// that a neighbouring byte would shift in.
    fn field(v: Self::Bytes, shift: i32, mask: u8) -> Self::Bytes;

    /// `a | b`
    fn or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;

    /// `table[v]` of each byte; `v` below 16.
    fn lookup(table: &[u8; 16], v: Self::Bytes) -> Self::Bytes;

    /// Signed weights in the form that [`Dots::dot_signed`] takes.
    fn prepare_signed(v: Self::Bytes) -> Self::Bytes;

    /// Sums that start at `-zero` times the activations' sum, which is that of some halves. `zero` is
    /// a power of two, or 0.
    fn start(zero: u8, halves: &[HalfSum]) -> Self::Sums;

    /// Adds to each row its four unsigned weights times the four activations in `a`.
    fn dot(sums: Self::Sums, w: Self::Bytes, a: i32) -> Self::Sums;

    /// Zeroes.
    fn zero() -> Self::Ints;

    /// `ints` plus the sums.
    fn finish(ints: Self::Ints, sums: Self::Sums) -> Self::Ints;

    /// Sums of signed weights, at their start; `halves` as in [`Dots::start`].
    fn start_signed(halves: &[HalfSum]) -> Self::Ints;

    /// Adds to each row its four signed (and prepared) weights times the four activations in `a`.
    fn dot_signed(sums: Self::Ints, w: Self::Bytes, a: i32) -> Self::Ints;

    /// The vectors of a step in the order in which [`Dots::panel_sums`] takes them.
    #[inline(always)]
    fn arrange(vectors: [Self::Bytes; VECTORS]) -> [Self::Bytes; VECTORS] {
        vectors
    }

    /// [`super::products::Step::sums`] of a panel; `vector(v, r)` is vector `v` of group `r`, as
    /// arranged.
    ///
    /// # Safety
    /// There must be `T` tokens.
    #[inline(always)]
    unsafe fn panel_sums<Q: Quants, const R: usize, const T: usize>(
        vector: impl Fn(usize, usize) -> Self::Bytes,
        tokens: Tokens,
        halves: Range<usize>,
    ) -> Sums<Self, R, T>
    where
        Self: Sized,
    {
        // SAFETY: the caller's promise.
        unsafe { products::sums::<Self, Q, R, T>(vector, tokens, halves) }
    }

    /// The integers as floats, rounded to nearest even.
    fn floats(v: Self::Ints) -> Self::Floats;

    /// Asks for a cache line that is read once; never faults.
    fn prefetch_once(p: *const u8);
}

/// [`Dots`] that multiply 16-bit numbers as well.
pub(super) trait PairDots: Dots {
    /// Adds to each row its two 16-bit weights times the two activations in `a`.
    fn dot_pair(sums: Self::Ints, w: Self::Bytes, a: i32) -> Self::Ints;
}
