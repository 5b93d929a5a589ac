//! Eight `f32` lanes, as plain Rust or as a vector register: kernels are written once, generic over
//! [`Simd`], and run through [`Isa::dispatch`].
//!
//! The order of operations is then the same for every instruction set; only the fused
//! multiply-add, where the processor has one, rounds differently.

mod portable;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(not(target_arch = "x86_64"))]
use portable as avx2;
#[cfg(not(target_arch = "aarch64"))]
use portable as neon;

#[cfg(target_arch = "x86_64")]
#[allow(unused_imports, reason = "for kernels that use intrinsics")]
pub(crate) use avx2::{Avx2, X86};
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::{Neon, widen};
#[allow(unused_imports, reason = "for tests")]
pub(crate) use portable::Portable;

use super::Isa;
use crate::E4m3;
use half::{bf16, f16};

/// Lanes of a [`Simd`] value.
pub(crate) const LANES: usize = 8;

/// Eight `f32` lanes.
///
/// Every method is inlined into the function that enables the instruction set, so generic kernel
/// functions on the way must be `#[inline(always)]`.
pub(crate) trait Simd: Copy {
    /// Values that there are registers for.
    const REGISTERS: usize;

    /// All lanes `x`.
    fn splat(x: f32) -> Self;
    /// The first eight values; panics where there are fewer.
    fn load(src: &[f32]) -> Self;
    /// The first eight values, widened.
    fn load_f16(src: &[f16]) -> Self;
    /// The first eight values, widened.
    fn load_bf16(src: &[bf16]) -> Self;
    /// The first eight values, widened.
    fn load_e4m3(src: &[E4m3]) -> Self;
    /// The first eight values, as floats.
    fn load_i8(src: &[i8]) -> Self;
    /// Writes the first eight values.
    fn store(self, dst: &mut [f32]);
    /// Writes the first eight values, rounded to nearest even.
    fn store_f16(self, dst: &mut [f16]);
    /// `self + o`
    fn add(self, o: Self) -> Self;
    /// `self - o`
    fn sub(self, o: Self) -> Self;
    /// `self * o`
    fn mul(self, o: Self) -> Self;
    /// `self / o`
    fn div(self, o: Self) -> Self;
    /// `self * a + b`, fused where the processor can.
    fn mul_add(self, a: Self, b: Self) -> Self;
    /// The larger of each lane; `o` where one is not a number.
    fn max(self, o: Self) -> Self;
    /// The smaller of each lane; `o` where one is not a number.
    fn min(self, o: Self) -> Self;
    /// Rounded to the nearest whole number, ties to even.
    fn round(self) -> Self;
    /// 2ⁿ for lanes that hold whole numbers from -126 to 127.
    fn exp2_int(self) -> Self;
    /// Sum of the lanes: ((0+4)+(2+6)) + ((1+5)+(3+7)).
    fn sum(self) -> f32;
    /// The largest lane.
    fn max_lane(self) -> f32;
    /// `self + a * b`, fused where the processor can, in the register that `self` is in: for sums
    /// in a loop, which compilers otherwise move from register to register, and into memory.
    fn accumulate(self, a: Self, b: Self) -> Self;
    /// Asks for the cache line at `address` to be brought close; never faults.
    fn prefetch<T>(address: *const T);
    /// Runs `kernel` in a function of its own: for what is used in many places, where inlining
    /// would cost the compiler minutes and win nothing.
    fn call<K: Kernel>(kernel: K) -> K::Output;
}

/// A computation that can be done with any [`Simd`].
pub(crate) trait Kernel {
    /// What it returns.
    type Output;
    /// Does it. Implement with `#[inline(always)]`.
    fn run<S: Simd>(self) -> Self::Output;
}

impl Isa {
    /// Runs `kernel` with this instruction set, which must be available.
    #[inline]
    #[allow(unused_unsafe, reason = "what other processors have is plain Rust here")]
    pub(crate) fn dispatch<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Isa::Portable => portable::run(kernel),
            // SAFETY: a stream holds only instruction sets that `Cpu::new` found available.
            Isa::Avx2 | Isa::AvxVnni => unsafe { avx2::run(kernel) },
            // SAFETY: as above.
            Isa::Avx512Vnni | Isa::Amx => unsafe { avx2::run_avx512(kernel) },
            Isa::NeonDot | Isa::NeonI8mm => neon::run(kernel),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::kv_cache::KvElement;

    /// What an instruction set makes of all codes.
    struct Widen<'a, E>(&'a [E]);

    impl<E: KvElement> Kernel for Widen<'_, E> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn run<S: Simd>(self) -> Vec<f32> {
            let mut wide = vec![0.0; self.0.len()];
            let codes = self.0.as_chunks::<LANES>().0;
            for (wide, codes) in wide.as_chunks_mut::<LANES>().0.iter_mut().zip(codes) {
                E::load::<S>(codes).store(wide);
            }
            wide
        }
    }

    fn every_code<E: KvElement>(codes: &[E], to_f32: impl Fn(E) -> f32) {
        for isa in Isa::available() {
            for (at, (&code, got)) in codes.iter().zip(isa.dispatch(Widen(codes))).enumerate() {
                let want = to_f32(code);
                let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
                assert!(same, "{isa}, code {at:#x}: {got:e}, not {want:e}");
            }
        }
    }

    #[test]
    fn every_code_of_a_cache_is_widened_exactly() {
        let all = |codes: u16| 0..=codes;
        every_code(&all(0xffff).map(f16::from_bits).collect::<Vec<_>>(), f16::to_f32);
        every_code(&all(0xffff).map(bf16::from_bits).collect::<Vec<_>>(), bf16::to_f32);
        let bytes = (0..=0xff).map(E4m3::from_bits).collect::<Vec<_>>();
        every_code(&bytes, E4m3::to_f32);
    }
}
