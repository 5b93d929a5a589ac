//! [`Dots`] on 128-bit registers of 64-bit Arm: with the dot products of Armv8.2 (`sdot`), or with
//! the matrix products of i8mm (`smmla`) for panels as well.
//!
//! Unsigned weights are below 128, so that both kinds are signed bytes to the instructions. A matrix
//! product takes eight columns of two rows and of two tokens; a panel is arranged for that when it
//! is unpacked.
//!
//! The instructions are given as text, because their intrinsics are not stable.

use super::super::super::simd::{Neon, widen};
use super::super::activations::{HalfSum, sum_of};
use super::super::formats::Quants;
use super::super::planes::VECTORS;
use super::super::products::{self, Sums, Tokens};
use super::Dots;
use std::arch::aarch64::*;
use std::arch::asm;
use std::ops::Range;

/// 128-bit registers, with or without matrix products.
pub(in super::super) struct NeonDots<const MATRIX: bool>;

/// [`super::super::super::Isa::NeonDot`]
pub(in super::super) type DotDots = NeonDots<false>;

/// [`super::super::super::Isa::NeonI8mm`]
pub(in super::super) type MatrixDots = NeonDots<true>;

/// Eight lanes: those of rows 0 to 3, and of 4 to 7.
type Ints = [int32x4_t; 2];

/// Adds to each lane the products of its four bytes.
///
/// # Safety
/// The processor must have the dot products.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn sdot(mut sums: int32x4_t, a: uint8x16_t, b: int32x4_t) -> int32x4_t {
    // SAFETY: reads and writes no more than the three registers.
    unsafe {
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sums, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sums
}

/// Adds the products of two rows and two columns of eight bytes each.
///
/// # Safety
/// The processor must have the matrix products.
#[inline]
#[target_feature(enable = "neon,i8mm")]
pub(in super::super) unsafe fn smmla(
    mut sums: int32x4_t,
    a: uint8x16_t,
    b: int8x16_t,
) -> int32x4_t {
    // SAFETY: reads and writes no more than the three registers.
    unsafe {
        asm!("smmla {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sums, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sums
}

/// `-zero` times the sum of the activations, in all lanes.
#[inline(always)]
fn start(zero: u8, halves: &[HalfSum]) -> int32x4_t {
    // SAFETY: NEON is always there.
    unsafe { vdupq_n_s32(sum_of(halves).wrapping_mul(-i32::from(zero))) }
}

// SAFETY of the blocks below: NEON is always there, the dot and matrix products are where they are
// asked for (see [`Dots`]), and memory is the callers' promise.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one comment for all, above")]
impl<const MATRIX: bool> Dots for NeonDots<MATRIX> {
    type Floats = Neon;
    type Ints = Ints;
    type Bytes = [uint8x16_t; 2];
    type Sums = Ints;

    #[inline(always)]
    fn sums_hold_32(_zero: u8, _max: u8) -> bool {
        true
    }

    #[inline(always)]
    unsafe fn load_f32(p: *const u8) -> Neon {
        unsafe { Neon(Self::load_bytes(p).map(|b| vreinterpretq_f32_u8(b))) }
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> Neon {
        let half = unsafe { vreinterpretq_u16_u8(vld1q_u8(p)) };
        Neon([widen::<false>(half), widen::<true>(half)])
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> Neon {
        unsafe {
            let half = vreinterpretq_u16_u8(vld1q_u8(p));
            let wide = [vshll_n_u16::<16>(vget_low_u16(half)), vshll_high_n_u16::<16>(half)];
            Neon(wide.map(|x| vreinterpretq_f32_u32(x)))
        }
    }

    #[inline(always)]
    fn bytes_to_floats(bytes: u64) -> Neon {
        unsafe {
            let wide = vmovl_u8(vcreate_u8(bytes));
            Neon([
                vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide))),
                vcvtq_f32_u32(vmovl_high_u16(wide)),
            ])
        }
    }

    #[inline(always)]
    unsafe fn load_e8m0(p: *const u8) -> Neon {
        unsafe {
            let wide = vmovl_u8(vld1_u8(p));
            let e = [vmovl_u16(vget_low_u16(wide)), vmovl_high_u16(wide)];
            // 2^(e - 128) has the exponent bits e - 1; the first two are subnormal.
            Neon(e.map(|e| {
                let normal = vshlq_n_u32::<23>(vsubq_u32(e, vdupq_n_u32(1)));
                let subnormal = vshlq_u32(vdupq_n_u32(0x0020_0000), vreinterpretq_s32_u32(e));
                let is_normal = vcgtq_u32(e, vdupq_n_u32(1));
                vreinterpretq_f32_u32(vbslq_u32(is_normal, normal, subnormal))
            }))
        }
    }

    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> [uint8x16_t; 2] {
        unsafe { [vld1q_u8(p), vld1q_u8(p.add(16))] }
    }

    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: [uint8x16_t; 2]) {
        unsafe {
            vst1q_u8(p, v[0]);
            vst1q_u8(p.add(16), v[1]);
        }
    }

    #[inline(always)]
    fn field(v: [uint8x16_t; 2], shift: i32, mask: u8) -> [uint8x16_t; 2] {
        // To the left where positive.
        v.map(|v| unsafe { vandq_u8(vshlq_u8(v, vdupq_n_s8(-shift as i8)), vdupq_n_u8(mask)) })
    }

    #[inline(always)]
    fn or(a: [uint8x16_t; 2], b: [uint8x16_t; 2]) -> [uint8x16_t; 2] {
        unsafe { [vorrq_u8(a[0], b[0]), vorrq_u8(a[1], b[1])] }
    }

    #[inline(always)]
    fn lookup(table: &[u8; 16], v: [uint8x16_t; 2]) -> [uint8x16_t; 2] {
        // SAFETY: the table has 16 bytes.
        let table = unsafe { vld1q_u8(table.as_ptr()) };
        v.map(|v| unsafe { vqtbl1q_u8(table, v) })
    }

    #[inline(always)]
    fn prepare_signed(v: [uint8x16_t; 2]) -> [uint8x16_t; 2] {
        v
    }

    #[inline(always)]
    fn start(zero: u8, halves: &[HalfSum]) -> Ints {
        [start(zero, halves); 2]
    }

    #[inline(always)]
    fn dot(sums: Ints, w: [uint8x16_t; 2], a: i32) -> Ints {
        unsafe {
            let a = vdupq_n_s32(a);
            [sdot(sums[0], w[0], a), sdot(sums[1], w[1], a)]
        }
    }

    #[inline(always)]
    fn zero() -> Ints {
        [start(0, &[]); 2]
    }

    #[inline(always)]
    fn finish(ints: Ints, sums: Ints) -> Ints {
        unsafe { [vaddq_s32(ints[0], sums[0]), vaddq_s32(ints[1], sums[1])] }
    }

    #[inline(always)]
    fn start_signed(_halves: &[HalfSum]) -> Ints {
        Self::zero()
    }

    #[inline(always)]
    fn dot_signed(sums: Ints, w: [uint8x16_t; 2], a: i32) -> Ints {
        Self::dot(sums, w, a)
    }

    /// For matrix products: of every two vectors, eight columns of rows 0 and 1, and of 2 and 3; then
    /// of 4 and 5, and of 6 and 7.
    #[inline(always)]
    fn arrange(mut vectors: [[uint8x16_t; 2]; VECTORS]) -> [[uint8x16_t; 2]; VECTORS] {
        if !MATRIX {
            return vectors;
        }
        for pair in vectors.as_chunks_mut::<2>().0 {
            let [a, b] = pair.map(|v| v.map(|x| unsafe { vreinterpretq_u32_u8(x) }));
            for (half, out) in pair.iter_mut().enumerate() {
                let rows = unsafe { [vzip1q_u32(a[half], b[half]), vzip2q_u32(a[half], b[half])] };
                *out = rows.map(|x| unsafe { vreinterpretq_u8_u32(x) });
            }
        }
        vectors
    }

    #[inline(always)]
    unsafe fn panel_sums<Q: Quants, const R: usize, const T: usize>(
        vector: impl Fn(usize, usize) -> [uint8x16_t; 2],
        tokens: Tokens,
        halves: Range<usize>,
    ) -> Sums<Self, R, T> {
        unsafe {
            if MATRIX {
                matrix_sums::<Q, R, T>(vector, tokens, halves)
            } else {
                products::sums::<Self, Q, R, T>(vector, tokens, halves)
            }
        }
    }

    #[inline(always)]
    fn floats(v: Ints) -> Neon {
        Neon(v.map(|v| unsafe { vcvtq_f32_s32(v) }))
    }

    #[inline(always)]
    fn prefetch_once(p: *const u8) {
        // SAFETY: a hint, which reads nothing.
        unsafe {
            asm!("prfm pldl1strm, [{0}]", in(reg) p, options(readonly, nostack, preserves_flags));
        }
    }
}

/// [`Dots::panel_sums`] by matrix products. A last token without another is taken twice.
///
/// # Safety
/// There must be `T` tokens; the processor must have the matrix products.
#[inline(always)]
unsafe fn matrix_sums<Q: Quants, const R: usize, const T: usize>(
    vector: impl Fn(usize, usize) -> [uint8x16_t; 2],
    tokens: Tokens,
    halves: Range<usize>,
) -> [[Ints; R]; T] {
    /// Columns of a matrix product.
    const COLUMNS: usize = 8;
    let zero = if Q::SIGNED { 0 } else { Q::ZERO };
    // SAFETY: tokens are below T; the features are the caller's promise.
    unsafe {
        let mut sums = [[[start(0, &[]); 2]; R]; T];
        for r in 0..R {
            // Of two tokens: rows 0 and 1, 2 and 3, … for the first and second of them.
            let mut pairs = [[start(0, &[]); 4]; T];
            for eight in halves.start * 2..halves.end * 2 {
                let (low, high) = (vector(2 * eight, r), vector(2 * eight + 1, r));
                for (p, pair) in pairs.iter_mut().enumerate().take(T.div_ceil(2)) {
                    let load = |t: usize| vld1_s8(tokens.get(t).q.as_ptr().add(eight * COLUMNS));
                    let a = vcombine_s8(load(2 * p), load((2 * p + 1).min(T - 1)));
                    for (sums, w) in pair.iter_mut().zip([low[0], low[1], high[0], high[1]]) {
                        *sums = smmla(*sums, w, a);
                    }
                }
            }
            for (t, sums) in sums.iter_mut().enumerate() {
                let [a, b, c, d] = pairs[t / 2];
                let rows = match t % 2 {
                    0 => [vuzp1q_s32(a, b), vuzp1q_s32(c, d)],
                    _ => [vuzp2q_s32(a, b), vuzp2q_s32(c, d)],
                };
                let first = start(zero, &tokens.get(t).halves[halves.clone()]);
                sums[r] = rows.map(|x| vaddq_s32(x, first));
            }
        }
        sums
    }
}
