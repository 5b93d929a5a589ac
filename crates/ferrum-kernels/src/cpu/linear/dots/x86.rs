//! [`Dots`] on 256-bit registers of x86-64: with AVX2, FMA and F16C, or with the dot products of
//! VNNI as well, in the encoding of AVX-512 or of AVX-VNNI.
//!
//! AVX2: `vpmaddubsw` multiplies unsigned by signed bytes and adds neighbours into 16-bit lanes. For
//! weights of few bits those lanes hold the sum of all 32 columns, so the widening is paid once.
//! A zero point is subtracted by starting the lanes at `-zero` times the activations' sums: what
//! overflows on the way comes back, because only the final sum must fit.
//!
//! VNNI: `vpdpbusd` adds four products to a 32-bit lane at once. Signed weights are made unsigned by
//! adding 128, which is subtracted as a zero point.

use super::super::super::simd::{Avx2, X86};
use super::super::activations::HalfSum;
use super::{Dots, PairDots};
use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// 256-bit registers, with one way of multiplying bytes.
pub(in super::super) struct X86Dots<P>(PhantomData<P>);

/// [`super::super::super::Isa::Avx2`]
pub(in super::super) type Avx2Dots = X86Dots<Maddubs>;

/// VNNI in the encoding of AVX-512.
pub(in super::super) type VnniDots = X86Dots<Evex>;

/// The same for processors that have AMX.
pub(in super::super) type AmxDots = X86Dots<EvexDeep>;

/// VNNI in the encoding of AVX-VNNI.
pub(in super::super) type AvxVnniDots = X86Dots<Vex>;

/// A way of multiplying unsigned bytes with signed ones.
pub(in super::super) trait Products: 'static {
    /// Whether four products are added to a 32-bit lane, rather than two to a 16-bit one.
    const VNNI: bool;

    /// Whether weights are asked for into the second-level cache. Intel's cores have few places for
    /// lines on their way to the first one: reading is half again as fast on those that have AMX.
    /// Not measured on others of Intel's.
    const DEEP: bool = false;

    /// Adds the products of `w` and `a` to the lanes of `sums`.
    ///
    /// # Safety
    /// The processor must have the instruction.
    unsafe fn add(sums: __m256i, w: __m256i, a: __m256i) -> __m256i;
}

/// `vpmaddubsw` and `vpaddw`.
pub(in super::super) struct Maddubs;

/// `vpdpbusd` of AVX-512 VNNI with VL.
pub(in super::super) struct Evex;

/// The same, with [`Products::DEEP`].
pub(in super::super) struct EvexDeep;

/// `vpdpbusd` of AVX-VNNI: the same instruction, for processors without AVX-512.
pub(in super::super) struct Vex;

impl Products for Maddubs {
    const VNNI: bool = false;

    #[inline(always)]
    unsafe fn add(sums: __m256i, w: __m256i, a: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { pin(_mm256_add_epi16(sums, _mm256_maddubs_epi16(w, a))) }
    }
}

impl Products for Evex {
    const VNNI: bool = true;

    #[inline(always)]
    unsafe fn add(sums: __m256i, w: __m256i, a: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_dpbusd_epi32(sums, w, a) }
    }
}

impl Products for EvexDeep {
    const VNNI: bool = true;
    const DEEP: bool = true;

    #[inline(always)]
    unsafe fn add(sums: __m256i, w: __m256i, a: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { Evex::add(sums, w, a) }
    }
}

impl Products for Vex {
    const VNNI: bool = true;

    #[inline(always)]
    unsafe fn add(sums: __m256i, w: __m256i, a: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_dpbusd_avx_epi32(sums, w, a) }
    }
}

/// The zero point of signed weights that were made unsigned.
pub(in super::super) const SIGN: u8 = 0x80;

/// Largest magnitude of a quantised activation.
const ACTIVATION_MAX: i32 = 127;

/// Keeps the compiler from reordering a chain of additions, which makes it run out of registers.
///
/// # Safety
/// The processor must have AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn pin(mut x: __m256i) -> __m256i {
    // SAFETY: no instruction at all; the register keeps its value.
    unsafe { asm!("/* {0} */", inout(ymm_reg) x, options(pure, nomem, nostack, preserves_flags)) };
    x
}

// SAFETY of the blocks below: the features are there (see [`Dots`]), and memory is the callers'
// promise.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one comment for all, above")]
impl<P: Products> Dots for X86Dots<P> {
    type Floats = Avx2;
    type Ints = __m256i;
    type Bytes = __m256i;
    type Sums = __m256i;

    #[inline(always)]
    fn sums_hold_32(zero: u8, max: u8) -> bool {
        if P::VNNI {
            return true;
        }
        // A lane adds 16 of the 32 products.
        let weight = i32::from(zero.max(max - zero));
        16 * weight * ACTIVATION_MAX <= i32::from(i16::MAX)
    }

    #[inline(always)]
    unsafe fn load_f32(p: *const u8) -> Avx2 {
        unsafe { X86(_mm256_loadu_ps(p.cast())) }
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> Avx2 {
        unsafe { X86(_mm256_cvtph_ps(_mm_loadu_si128(p.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> Avx2 {
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            X86(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide)))
        }
    }

    #[inline(always)]
    fn bytes_to_floats(bytes: u64) -> Avx2 {
        unsafe {
            let bytes = _mm_cvtsi64_si128(bytes as i64);
            X86(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)))
        }
    }

    #[inline(always)]
    unsafe fn load_e8m0(p: *const u8) -> Avx2 {
        unsafe {
            let e = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
            // 2^(e - 128) has the exponent bits e - 1; the first two are subnormal.
            let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(e, _mm256_set1_epi32(1)));
            let subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x0020_0000), e);
            let is_normal = _mm256_cmpgt_epi32(e, _mm256_set1_epi32(1));
            X86(_mm256_castsi256_ps(_mm256_blendv_epi8(subnormal, normal, is_normal)))
        }
    }

    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> __m256i {
        unsafe { _mm256_loadu_si256(p.cast()) }
    }

    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: __m256i) {
        unsafe { _mm256_storeu_si256(p.cast(), v) }
    }

    #[inline(always)]
    fn field(v: __m256i, shift: i32, mask: u8) -> __m256i {
        unsafe {
            let count = _mm_cvtsi32_si128(shift.abs());
            let shifted = match shift {
                0 => v,
                1.. => _mm256_srl_epi16(v, count),
                _ => _mm256_sll_epi16(v, count),
            };
            _mm256_and_si256(shifted, _mm256_set1_epi8(mask as i8))
        }
    }

    #[inline(always)]
    fn or(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_or_si256(a, b) }
    }

    #[inline(always)]
    fn lookup(table: &[u8; 16], v: __m256i) -> __m256i {
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            _mm256_shuffle_epi8(table, v)
        }
    }

    #[inline(always)]
    fn prepare_signed(v: __m256i) -> __m256i {
        if !P::VNNI {
            return v;
        }
        unsafe { _mm256_xor_si256(v, _mm256_set1_epi8(SIGN as i8)) }
    }

    #[inline(always)]
    fn start(zero: u8, halves: &[HalfSum]) -> __m256i {
        unsafe {
            let mut sums = _mm256_setzero_si256();
            if zero == 0 {
                return sums;
            }
            // A shift, because it need not wait for what multiplies.
            let shift = _mm_cvtsi32_si128(zero.trailing_zeros() as i32);
            for half in halves {
                sums = if P::VNNI {
                    _mm256_sub_epi32(sums, _mm256_set1_epi32(half.all))
                } else {
                    _mm256_sub_epi16(sums, _mm256_set1_epi32(half.pairs))
                };
            }
            if P::VNNI { _mm256_sll_epi32(sums, shift) } else { _mm256_sll_epi16(sums, shift) }
        }
    }

    #[inline(always)]
    fn dot(sums: __m256i, w: __m256i, a: i32) -> __m256i {
        unsafe { P::add(sums, w, _mm256_set1_epi32(a)) }
    }

    #[inline(always)]
    fn zero() -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    fn finish(ints: __m256i, sums: __m256i) -> __m256i {
        unsafe {
            let sums = if P::VNNI { sums } else { _mm256_madd_epi16(sums, _mm256_set1_epi16(1)) };
            _mm256_add_epi32(ints, sums)
        }
    }

    #[inline(always)]
    fn start_signed(halves: &[HalfSum]) -> __m256i {
        Self::start(if P::VNNI { SIGN } else { 0 }, halves)
    }

    #[inline(always)]
    fn dot_signed(sums: __m256i, w: __m256i, a: i32) -> __m256i {
        if P::VNNI {
            return Self::dot(sums, w, a);
        }
        // |w| · (a with the sign of w): at most 128 · 127 · 2, which a 16-bit lane holds.
        unsafe {
            let a = _mm256_sign_epi8(_mm256_set1_epi32(a), w);
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), a);
            pin(_mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))))
        }
    }

    #[inline(always)]
    fn floats(v: __m256i) -> Avx2 {
        unsafe { X86(_mm256_cvtepi32_ps(v)) }
    }

    #[inline(always)]
    fn prefetch_once(p: *const u8) {
        unsafe {
            if P::DEEP {
                _mm_prefetch::<_MM_HINT_T1>(p.cast());
            } else {
                _mm_prefetch::<_MM_HINT_NTA>(p.cast());
            }
        }
    }
}

impl<P: Products> PairDots for X86Dots<P> {
    #[inline(always)]
    fn dot_pair(sums: __m256i, w: __m256i, a: i32) -> __m256i {
        // SAFETY: the features are there (see [`Dots`]).
        unsafe { pin(_mm256_add_epi32(sums, _mm256_madd_epi16(w, _mm256_set1_epi32(a)))) }
    }
}
