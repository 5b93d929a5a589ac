//! [`Dots`] as plain Rust, for every processor.
//!
//! Methods are not forced inline: each is a loop over a vector's bytes, for the compiler to
//! vectorise, and worth a call.

use super::super::super::simd::{Portable, Simd};
use super::super::activations::{HalfSum, sum_of};
use super::{Dots, PairDots, ROWS, VECTOR};
use crate::weight::mxfp4::half_scale;
use half::{bf16, f16};

/// Plain Rust.
pub(in super::super) struct PortableDots;

/// # Safety
/// `N` bytes must be readable.
unsafe fn read<const N: usize>(p: *const u8) -> [u8; N] {
    // SAFETY: the caller's promise; a byte array has no alignment.
    unsafe { p.cast::<[u8; N]>().read() }
}

/// `f` of each row.
fn floats(f: impl Fn(usize) -> f32) -> Portable {
    let mut lanes = [0.0; ROWS];
    for (r, lane) in lanes.iter_mut().enumerate() {
        *lane = f(r);
    }
    Portable::load(&lanes)
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

    unsafe fn load_f32(p: *const u8) -> Portable {
        let b: [u8; 32] = unsafe { read(p) };
        floats(|r| f32::from_le_bytes([b[4 * r], b[4 * r + 1], b[4 * r + 2], b[4 * r + 3]]))
    }

    unsafe fn load_f16(p: *const u8) -> Portable {
        let b: [u8; 16] = unsafe { read(p) };
        floats(|r| f16::from_le_bytes([b[2 * r], b[2 * r + 1]]).to_f32())
    }

    unsafe fn load_bf16(p: *const u8) -> Portable {
        let b: [u8; 16] = unsafe { read(p) };
        floats(|r| bf16::from_le_bytes([b[2 * r], b[2 * r + 1]]).to_f32())
    }

    fn bytes_to_floats(bytes: u64) -> Portable {
        let b = bytes.to_le_bytes();
        floats(|r| f32::from(b[r]))
    }

    unsafe fn load_e8m0(p: *const u8) -> Portable {
        let b: [u8; ROWS] = unsafe { read(p) };
        floats(|r| half_scale(b[r]))
    }

    unsafe fn load_bytes(p: *const u8) -> [u8; VECTOR] {
        unsafe { read(p) }
    }

    unsafe fn store_bytes(p: *mut u8, v: [u8; VECTOR]) {
        unsafe { p.cast::<[u8; VECTOR]>().write(v) }
    }

    // Inline, so that the shift is a constant, which vectorises.
    #[inline(always)]
    fn field(mut v: [u8; VECTOR], shift: i32, mask: u8) -> [u8; VECTOR] {
        for b in &mut v {
            *b = if shift >= 0 { *b >> shift } else { *b << -shift } & mask;
        }
        v
    }

    fn or(mut a: [u8; VECTOR], b: [u8; VECTOR]) -> [u8; VECTOR] {
        for (a, b) in a.iter_mut().zip(b) {
            *a |= b;
        }
        a
    }

    fn lookup(table: &[u8; 16], mut v: [u8; VECTOR]) -> [u8; VECTOR] {
        for b in &mut v {
            *b = table[usize::from(*b & 15)];
        }
        v
    }

    fn prepare_signed(v: [u8; VECTOR]) -> [u8; VECTOR] {
        v
    }

    fn start(zero: u8, halves: &[HalfSum]) -> [i32; ROWS] {
        [sum_of(halves).wrapping_mul(-i32::from(zero)); ROWS]
    }

    fn dot(mut sums: [i32; ROWS], w: [u8; VECTOR], a: i32) -> [i32; ROWS] {
        for (sum, w) in sums.iter_mut().zip(w.as_chunks::<4>().0) {
            for (w, a) in w.iter().zip(a.to_ne_bytes()) {
                *sum += i32::from(*w) * i32::from(a as i8);
            }
        }
        sums
    }

    fn zero() -> [i32; ROWS] {
        [0; ROWS]
    }

    fn finish(mut ints: [i32; ROWS], sums: [i32; ROWS]) -> [i32; ROWS] {
        for (int, sum) in ints.iter_mut().zip(sums) {
            *int += sum;
        }
        ints
    }

    fn start_signed(_halves: &[HalfSum]) -> [i32; ROWS] {
        [0; ROWS]
    }

    fn dot_signed(mut sums: [i32; ROWS], w: [u8; VECTOR], a: i32) -> [i32; ROWS] {
        for (sum, w) in sums.iter_mut().zip(w.as_chunks::<4>().0) {
            for (w, a) in w.iter().zip(a.to_ne_bytes()) {
                *sum += i32::from(*w as i8) * i32::from(a as i8);
            }
        }
        sums
    }

    fn floats(v: [i32; ROWS]) -> Portable {
        floats(|r| v[r] as f32)
    }

    fn prefetch_once(_p: *const u8) {}
}

impl PairDots for PortableDots {
    fn dot_pair(mut sums: [i32; ROWS], w: [u8; VECTOR], a: i32) -> [i32; ROWS] {
        let a = a.to_ne_bytes();
        let first = i32::from(i16::from_ne_bytes([a[0], a[1]]));
        let second = i32::from(i16::from_ne_bytes([a[2], a[3]]));
        for (sum, w) in sums.iter_mut().zip(w.as_chunks::<4>().0) {
            let w = i32::from_le_bytes(*w);
            *sum += i32::from(w as i16) * first + (w >> 16) * second;
        }
        sums
    }
}
