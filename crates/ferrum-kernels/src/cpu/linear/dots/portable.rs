//! [`Dots`] as plain Rust, for every processor.

use super::super::super::simd::{Portable, Simd};
use super::{Dots, ROWS, VECTOR};
use crate::weight::mxfp4::half_scale;
use half::{bf16, f16};

/// Plain Rust.
pub(in super::super) struct PortableDots;

/// # Safety
/// `N` bytes must be readable.
#[inline(always)]
unsafe fn read<const N: usize>(p: *const u8) -> [u8; N] {
    // SAFETY: the caller's promise; a byte array has no alignment.
    unsafe { p.cast::<[u8; N]>().read() }
}

#[inline(always)]
fn floats(f: impl Fn(usize) -> f32) -> Portable {
    Portable::load(&std::array::from_fn::<f32, ROWS, _>(f))
}

/// The two sums in a pair: of columns 0 and 1 of every four, and of columns 2 and 3.
#[inline(always)]
fn pair_sum(pair: i32) -> i32 {
    i32::from(pair as i16) + (pair >> 16)
}

// SAFETY of the blocks below: the callers' promises, passed on.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one comment for all, above")]
impl Dots for PortableDots {
    type Floats = Portable;
    type Ints = [i32; ROWS];
    type Bytes = [u8; VECTOR];
    type Sums = [i32; ROWS];

    fn sums_hold_32(_zero: u8, _max: u8) -> bool {
        true
    }

    #[inline(always)]
    unsafe fn load_f32(p: *const u8) -> Portable {
        let b: [u8; 32] = unsafe { read(p) };
        floats(|r| f32::from_le_bytes([b[4 * r], b[4 * r + 1], b[4 * r + 2], b[4 * r + 3]]))
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> Portable {
        let b: [u8; 16] = unsafe { read(p) };
        floats(|r| f16::from_le_bytes([b[2 * r], b[2 * r + 1]]).to_f32())
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> Portable {
        let b: [u8; 16] = unsafe { read(p) };
        floats(|r| bf16::from_le_bytes([b[2 * r], b[2 * r + 1]]).to_f32())
    }

    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> Portable {
        let b: [u8; ROWS] = unsafe { read(p) };
        floats(|r| f32::from(b[r]))
    }

    #[inline(always)]
    unsafe fn load_e8m0(p: *const u8) -> Portable {
        let b: [u8; ROWS] = unsafe { read(p) };
        floats(|r| half_scale(b[r]))
    }

    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> [u8; VECTOR] {
        unsafe { read(p) }
    }

    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: [u8; VECTOR]) {
        unsafe { p.cast::<[u8; VECTOR]>().write(v) }
    }

    #[inline(always)]
    fn field(v: [u8; VECTOR], shift: i32, mask: u8) -> [u8; VECTOR] {
        v.map(|b| if shift >= 0 { (b >> shift) & mask } else { (b << -shift) & mask })
    }

    #[inline(always)]
    fn or(a: [u8; VECTOR], b: [u8; VECTOR]) -> [u8; VECTOR] {
        std::array::from_fn(|i| a[i] | b[i])
    }

    #[inline(always)]
    fn lookup(table: &[u8; 16], v: [u8; VECTOR]) -> [u8; VECTOR] {
        v.map(|b| table[usize::from(b & 15)])
    }

    #[inline(always)]
    fn prepare_signed(v: [u8; VECTOR]) -> [u8; VECTOR] {
        v
    }

    #[inline(always)]
    fn start(zero: u8, pairs: &[i32]) -> [i32; ROWS] {
        let sum: i32 = pairs.iter().copied().map(pair_sum).sum();
        [-i32::from(zero) * sum; ROWS]
    }

    #[inline(always)]
    fn dot(sums: [i32; ROWS], w: [u8; VECTOR], a: i32) -> [i32; ROWS] {
        let a = a.to_ne_bytes().map(|a| i32::from(a as i8));
        std::array::from_fn(|r| (0..4).fold(sums[r], |s, i| s + i32::from(w[4 * r + i]) * a[i]))
    }

    #[inline(always)]
    fn finish(sums: [i32; ROWS]) -> [i32; ROWS] {
        sums
    }

    #[inline(always)]
    fn start_signed(_pairs: &[i32]) -> [i32; ROWS] {
        [0; ROWS]
    }

    #[inline(always)]
    fn dot_signed(sums: [i32; ROWS], w: [u8; VECTOR], a: i32) -> [i32; ROWS] {
        let a = a.to_ne_bytes().map(|a| i32::from(a as i8));
        let product = |r: usize, i: usize| i32::from(w[4 * r + i] as i8) * a[i];
        std::array::from_fn(|r| (0..4).fold(sums[r], |s, i| s + product(r, i)))
    }

    #[inline(always)]
    fn add(a: [i32; ROWS], b: [i32; ROWS]) -> [i32; ROWS] {
        std::array::from_fn(|r| a[r] + b[r])
    }

    #[inline(always)]
    fn floats(v: [i32; ROWS]) -> Portable {
        floats(|r| v[r] as f32)
    }

    #[inline(always)]
    fn prefetch_once(_p: *const u8) {}
}
