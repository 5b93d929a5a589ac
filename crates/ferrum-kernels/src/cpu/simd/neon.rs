//! [`Simd`] as two 128-bit registers: NEON, which every 64-bit Arm processor has.

use super::{Kernel, LANES, Simd};
use crate::E4m3;
use half::{bf16, f16};
use std::arch::aarch64::*;
use std::arch::asm;

/// Eight lanes in two registers, the first four in the first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neon(pub(crate) [float32x4_t; 2]);

/// Runs `kernel` with NEON.
#[inline(never)]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Neon>()
}

/// Four half-precision numbers, widened: the low four of `x`, or the high ones.
#[inline(always)]
pub(crate) fn widen<const HIGH: bool>(x: uint16x8_t) -> float32x4_t {
    let wide: float32x4_t;
    // SAFETY: reads and writes no more than the two registers.
    unsafe {
        // As text, because the intrinsics' type of half-precision numbers is not stable.
        if HIGH {
            asm!("fcvtl2 {0:v}.4s, {1:v}.8h", out(vreg) wide, in(vreg) x,
                options(pure, nomem, nostack, preserves_flags));
        } else {
            asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) wide, in(vreg) x,
                options(pure, nomem, nostack, preserves_flags));
        }
    }
    wide
}

/// Rounded to half precision, to nearest even as the processor is set up.
#[inline(always)]
fn narrow(x: [float32x4_t; 2]) -> uint16x8_t {
    let half: uint16x8_t;
    // SAFETY: reads and writes no more than the three registers.
    unsafe {
        asm!(
            "fcvtn {0:v}.4h, {1:v}.4s",
            "fcvtn2 {0:v}.8h, {2:v}.4s",
            out(vreg) half, in(vreg) x[0], in(vreg) x[1],
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    half
}

/// A value of each register.
#[inline(always)]
fn each(x: Neon, f: impl Fn(float32x4_t) -> float32x4_t) -> Neon {
    Neon([f(x.0[0]), f(x.0[1])])
}

/// A value of each pair of registers.
#[inline(always)]
fn zip(x: Neon, o: Neon, f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Neon {
    Neon([f(x.0[0], o.0[0]), f(x.0[1], o.0[1])])
}

// SAFETY of the blocks below, where nothing else is said: NEON is always there.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one comment for all, above")]
impl Simd for Neon {
    // 32 of half a value each.
    const REGISTERS: usize = 16;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        let all = unsafe { vdupq_n_f32(x) };
        Neon([all, all])
    }

    #[inline(always)]
    fn load(src: &[f32]) -> Self {
        let src = src[..LANES].as_ptr();
        // SAFETY: eight values are there.
        unsafe { Neon([vld1q_f32(src), vld1q_f32(src.add(4))]) }
    }

    #[inline(always)]
    fn load_f16(src: &[f16]) -> Self {
        // SAFETY: eight values of two bytes are there.
        let half = unsafe { vld1q_u16(src[..LANES].as_ptr().cast()) };
        Neon([widen::<false>(half), widen::<true>(half)])
    }

    #[inline(always)]
    fn load_bf16(src: &[bf16]) -> Self {
        // SAFETY: eight values of two bytes are there.
        unsafe {
            let bits = vld1q_u16(src[..LANES].as_ptr().cast());
            let (low, high) = (vmovl_u16(vget_low_u16(bits)), vmovl_high_u16(bits));
            Neon([low, high].map(|x| vreinterpretq_f32_u32(vshlq_n_u32::<16>(x))))
        }
    }

    // As half precision, whose exponents are biased by 8 more: what is too small for all its bits
    // of precision comes out right, too.
    #[inline(always)]
    fn load_e4m3(src: &[E4m3]) -> Self {
        // SAFETY: eight bytes are there.
        unsafe {
            let bytes = vmovl_s8(vld1_s8(src[..LANES].as_ptr().cast()));
            let half = vandq_s16(vshlq_n_s16::<7>(bytes), vdupq_n_s16(!0x4000));
            // One more than the largest number carries into the bit that makes it no number.
            let carry = vandq_s16(vaddq_s16(half, vdupq_n_s16(1 << 7)), vdupq_n_s16(0x4000));
            let half = vreinterpretq_u16_s16(vorrq_s16(half, carry));
            let scaled = [widen::<false>(half), widen::<true>(half)];
            Neon(scaled.map(|x| vmulq_n_f32(x, 256.0)))
        }
    }

    #[inline(always)]
    fn load_i8(src: &[i8]) -> Self {
        // SAFETY: eight bytes are there.
        unsafe {
            let wide = vmovl_s8(vld1_s8(src[..LANES].as_ptr()));
            let (low, high) = (vmovl_s16(vget_low_s16(wide)), vmovl_high_s16(wide));
            Neon([vcvtq_f32_s32(low), vcvtq_f32_s32(high)])
        }
    }

    #[inline(always)]
    fn store(self, dst: &mut [f32]) {
        let dst = dst[..LANES].as_mut_ptr();
        // SAFETY: there is room for eight values.
        unsafe {
            vst1q_f32(dst, self.0[0]);
            vst1q_f32(dst.add(4), self.0[1]);
        }
    }

    #[inline(always)]
    fn store_f16(self, dst: &mut [f16]) {
        // SAFETY: there is room for eight values of two bytes.
        unsafe { vst1q_u16(dst[..LANES].as_mut_ptr().cast(), narrow(self.0)) }
    }

    #[inline(always)]
    fn add(self, o: Self) -> Self {
        zip(self, o, |a, b| unsafe { vaddq_f32(a, b) })
    }

    #[inline(always)]
    fn sub(self, o: Self) -> Self {
        zip(self, o, |a, b| unsafe { vsubq_f32(a, b) })
    }

    #[inline(always)]
    fn mul(self, o: Self) -> Self {
        zip(self, o, |a, b| unsafe { vmulq_f32(a, b) })
    }

    #[inline(always)]
    fn div(self, o: Self) -> Self {
        zip(self, o, |a, b| unsafe { vdivq_f32(a, b) })
    }

    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        b.accumulate(self, a)
    }

    // Not `fmax`, which makes nothing of a number and what is none in its own way.
    #[inline(always)]
    fn max(self, o: Self) -> Self {
        zip(self, o, |a, b| unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) })
    }

    #[inline(always)]
    fn min(self, o: Self) -> Self {
        zip(self, o, |a, b| unsafe { vbslq_f32(vcltq_f32(a, b), a, b) })
    }

    #[inline(always)]
    fn round(self) -> Self {
        each(self, |x| unsafe { vrndnq_f32(x) })
    }

    #[inline(always)]
    fn exp2_int(self) -> Self {
        each(self, |x| unsafe {
            let n = vaddq_s32(vcvtq_s32_f32(x), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(n))
        })
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        unsafe {
            let four = vaddq_f32(self.0[0], self.0[1]);
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }

    #[inline(always)]
    fn max_lane(self) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(&mut lanes);
        lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    fn accumulate(self, a: Self, b: Self) -> Self {
        let sum = |i: usize| unsafe { vfmaq_f32(self.0[i], a.0[i], b.0[i]) };
        Neon([sum(0), sum(1)])
    }

    #[inline(always)]
    fn prefetch<T>(address: *const T) {
        // SAFETY: a hint, which reads nothing.
        unsafe {
            asm!("prfm pldl2keep, [{0}]", in(reg) address,
                options(readonly, nostack, preserves_flags));
        }
    }

    #[inline(always)]
    fn call<K: Kernel>(kernel: K) -> K::Output {
        run(kernel)
    }
}
