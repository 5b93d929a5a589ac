//! [`Simd`] as a 256-bit register: AVX2 with FMA and F16C; with AVX-512, of twice as many registers.

use super::{Kernel, LANES, Simd};
use crate::E4m3;
use half::{bf16, f16};
use std::arch::asm;
use std::arch::x86_64::*;

/// Eight lanes in one of so many registers. Values exist only inside of [`run`] or [`run_avx512`], or
/// of a function that enables the same features, so every intrinsic below is available.
#[derive(Debug, Clone, Copy)]
pub(crate) struct X86<const REGISTERS: usize>(pub(crate) __m256);

/// One of the 16 registers of AVX2.
pub(crate) type Avx2 = X86<16>;

/// Runs `kernel` with AVX2, FMA and F16C.
///
/// # Safety
/// The processor must have all three.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx2>()
}

/// Runs `kernel` with the same and the 32 registers of AVX-512.
///
/// # Safety
/// The processor must have all that, AVX-512 with VL.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512vl")]
pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<X86<32>>()
}

// SAFETY of the blocks below, where nothing else is said: the features are there (see [`Avx2`]).
#[allow(clippy::undocumented_unsafe_blocks, reason = "one comment for all, above")]
impl<const REGISTERS: usize> Simd for X86<REGISTERS> {
    const REGISTERS: usize = REGISTERS;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        unsafe { X86(_mm256_set1_ps(x)) }
    }

    #[inline(always)]
    fn load(src: &[f32]) -> Self {
        let src = &src[..LANES];
        // SAFETY: eight values are there.
        unsafe { X86(_mm256_loadu_ps(src.as_ptr())) }
    }

    #[inline(always)]
    fn load_f16(src: &[f16]) -> Self {
        let src = &src[..LANES];
        // SAFETY: eight values of two bytes are there.
        unsafe { X86(_mm256_cvtph_ps(_mm_loadu_si128(src.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn load_bf16(src: &[bf16]) -> Self {
        let src = &src[..LANES];
        // SAFETY: eight values of two bytes are there.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(src.as_ptr().cast()));
            X86(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide)))
        }
    }

    // As half precision, whose exponents are biased by 8 more: what is too small for all its bits
    // of precision comes out right, too.
    #[inline(always)]
    fn load_e4m3(src: &[E4m3]) -> Self {
        let src = &src[..LANES];
        // SAFETY: eight bytes are there.
        unsafe {
            let bytes = _mm_cvtepi8_epi16(_mm_loadl_epi64(src.as_ptr().cast()));
            let half = _mm_and_si128(_mm_slli_epi16::<7>(bytes), _mm_set1_epi16(!0x4000));
            // One more than the largest number carries into the bit that makes it no number.
            let carry =
                _mm_and_si128(_mm_add_epi16(half, _mm_set1_epi16(1 << 7)), _mm_set1_epi16(0x4000));
            let scaled = _mm256_cvtph_ps(_mm_or_si128(half, carry));
            X86(_mm256_mul_ps(scaled, _mm256_set1_ps(256.0)))
        }
    }

    #[inline(always)]
    fn load_i8(src: &[i8]) -> Self {
        let src = &src[..LANES];
        // SAFETY: eight bytes are there.
        unsafe {
            let bytes = _mm_loadl_epi64(src.as_ptr().cast());
            X86(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)))
        }
    }

    #[inline(always)]
    fn store(self, dst: &mut [f32]) {
        let dst = &mut dst[..LANES];
        // SAFETY: there is room for eight values.
        unsafe { _mm256_storeu_ps(dst.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn store_f16(self, dst: &mut [f16]) {
        let dst = &mut dst[..LANES];
        // SAFETY: there is room for eight values of two bytes.
        unsafe {
            let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0);
            _mm_storeu_si128(dst.as_mut_ptr().cast(), half);
        }
    }

    #[inline(always)]
    fn add(self, o: Self) -> Self {
        unsafe { X86(_mm256_add_ps(self.0, o.0)) }
    }

    #[inline(always)]
    fn sub(self, o: Self) -> Self {
        unsafe { X86(_mm256_sub_ps(self.0, o.0)) }
    }

    #[inline(always)]
    fn mul(self, o: Self) -> Self {
        unsafe { X86(_mm256_mul_ps(self.0, o.0)) }
    }

    #[inline(always)]
    fn div(self, o: Self) -> Self {
        unsafe { X86(_mm256_div_ps(self.0, o.0)) }
    }

    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        unsafe { X86(_mm256_fmadd_ps(self.0, a.0, b.0)) }
    }

    #[inline(always)]
    fn max(self, o: Self) -> Self {
        unsafe { X86(_mm256_max_ps(self.0, o.0)) }
    }

    #[inline(always)]
    fn min(self, o: Self) -> Self {
        unsafe { X86(_mm256_min_ps(self.0, o.0)) }
    }

    #[inline(always)]
    fn round(self) -> Self {
        unsafe { X86(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)) }
    }

    #[inline(always)]
    fn exp2_int(self) -> Self {
        unsafe {
            let n = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
            X86(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(n)))
        }
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        unsafe {
            let four =
                _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn max_lane(self) -> f32 {
        unsafe {
            let four =
                _mm_max_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn accumulate(self, a: Self, b: Self) -> Self {
        unsafe { X86(accumulate(self.0, a.0, b.0)) }
    }

    #[inline(always)]
    fn prefetch<T>(address: *const T) {
        // Into the second-level cache: the first has too few places for lines on their way.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }

    #[inline(always)]
    fn call<K: Kernel>(kernel: K) -> K::Output {
        unsafe { if REGISTERS == 16 { run(kernel) } else { run_avx512(kernel) } }
    }
}

/// `sum + a · b` as the one instruction whose result replaces the sum.
///
/// # Safety
/// The processor must have FMA.
#[inline]
#[target_feature(enable = "avx,fma")]
unsafe fn accumulate(mut sum: __m256, a: __m256, b: __m256) -> __m256 {
    // SAFETY: reads and writes no more than the three registers.
    unsafe {
        asm!(
            "vfmadd231ps {sum}, {a}, {b}",
            sum = inout(ymm_reg) sum,
            a = in(ymm_reg) a,
            b = in(ymm_reg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}
