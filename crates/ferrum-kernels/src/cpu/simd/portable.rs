//! [`Simd`] as an array of eight values: any processor, and a form that compilers vectorise.

use super::{Kernel, LANES, Simd};
use crate::E4m3;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Eight lanes in plain Rust.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable([f32; LANES]);

/// Runs `kernel` in plain Rust.
#[inline(never)]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Portable>()
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) use run as run_avx512;

/// `dst = src`; apart, because the conversion is long where the processor has none.
#[inline(never)]
fn widen(src: &[f16], dst: &mut [f32; LANES]) {
    src.convert_to_f32_slice(dst);
}

/// `dst = src`; apart for the same reason.
#[inline(never)]
fn widen_e4m3(src: &[E4m3; LANES], dst: &mut [f32; LANES]) {
    *dst = src.map(E4m3::to_f32);
}

/// `dst = src`, rounded to nearest even.
#[inline(never)]
fn narrow(src: &[f32; LANES], dst: &mut [f16]) {
    dst.convert_from_f32_slice(src);
}

impl Portable {
    #[inline(always)]
    fn map(self, f: impl Fn(f32) -> f32) -> Self {
        Portable(self.0.map(f))
    }

    #[inline(always)]
    fn zip(self, o: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Portable(std::array::from_fn(|i| f(self.0[i], o.0[i])))
    }
}

impl Simd for Portable {
    const REGISTERS: usize = 16;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Portable([x; LANES])
    }

    #[inline(always)]
    fn load(src: &[f32]) -> Self {
        let src = &src[..LANES];
        Portable(std::array::from_fn(|i| src[i]))
    }

    #[inline(always)]
    fn load_i8(src: &[i8]) -> Self {
        let src = &src[..LANES];
        Portable(std::array::from_fn(|i| f32::from(src[i])))
    }

    #[inline(always)]
    fn load_f16(src: &[f16]) -> Self {
        let mut lanes = [0.0; LANES];
        widen(&src[..LANES], &mut lanes);
        Portable(lanes)
    }

    #[inline(always)]
    fn load_bf16(src: &[bf16]) -> Self {
        let src = &src[..LANES];
        Portable(std::array::from_fn(|i| f32::from_bits(u32::from(src[i].to_bits()) << 16)))
    }

    #[inline(always)]
    fn load_e4m3(src: &[E4m3]) -> Self {
        let mut lanes = [0.0; LANES];
        widen_e4m3(&std::array::from_fn(|i| src[i]), &mut lanes);
        Portable(lanes)
    }

    #[inline(always)]
    fn store(self, dst: &mut [f32]) {
        dst[..LANES].copy_from_slice(&self.0);
    }

    #[inline(always)]
    fn store_f16(self, dst: &mut [f16]) {
        narrow(&self.0, &mut dst[..LANES]);
    }

    #[inline(always)]
    fn add(self, o: Self) -> Self {
        self.zip(o, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, o: Self) -> Self {
        self.zip(o, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, o: Self) -> Self {
        self.zip(o, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, o: Self) -> Self {
        self.zip(o, |a, b| a / b)
    }

    // Not f32::mul_add: without the instruction that is a slow library call.
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        Portable(std::array::from_fn(|i| self.0[i] * a.0[i] + b.0[i]))
    }

    #[inline(always)]
    fn max(self, o: Self) -> Self {
        self.zip(o, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, o: Self) -> Self {
        self.zip(o, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn round(self) -> Self {
        self.map(f32::round_ties_even)
    }

    #[inline(always)]
    fn exp2_int(self) -> Self {
        self.map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let v = self.0;
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }

    #[inline(always)]
    fn max_lane(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    fn accumulate(self, a: Self, b: Self) -> Self {
        a.mul_add(b, self)
    }

    #[inline(always)]
    fn prefetch<T>(_: *const T) {}

    #[inline(always)]
    fn call<K: Kernel>(kernel: K) -> K::Output {
        run(kernel)
    }
}
