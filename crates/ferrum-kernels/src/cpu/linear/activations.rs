//! Activations as `i8` with one scale per 32 values, made once per input and shared by all of its
//! outputs, of whatever format.

use super::planes::STEP;
use crate::host::Plain;

/// Largest magnitude of a quantised value.
const MAX: f32 = 127.0;

/// Below this largest magnitude (where its inverse would overflow) a block counts as zero.
const NEGLIGIBLE: f32 = 1e-30;

/// 32 activations: `scale · q`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Block {
    /// The values, -127 to 127.
    pub(super) q: [i8; STEP],
    /// What a unit is worth.
    pub(super) scale: f32,
    /// The sum of all, in units of 1.
    pub(super) sum: f32,
    /// The sums of the first and the second 16.
    pub(super) halves: [HalfSum; 2],
}

/// The sum of 16 activations, in units of their scale.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct HalfSum {
    pub(super) all: i32,
    /// Two sums of 16 bits: in the low half that of the columns 0 and 1 of every four, in the high
    /// half that of 2 and 3. (The lanes of `vpmaddubsw`.)
    pub(super) pairs: i32,
}

/// The sum of some halves, which is any number where an activation is none.
#[inline(always)]
pub(super) fn sum_of(halves: &[HalfSum]) -> i32 {
    halves.iter().fold(0, |sum, half| sum.wrapping_add(half.all))
}

impl HalfSum {
    #[inline(always)]
    fn of(q: &[i32; STEP / 2]) -> Self {
        // Four by four, as vectors do it; what is no number may overflow.
        let mut sums = [0_i32; 4];
        for four in q.as_chunks::<4>().0 {
            for (sum, q) in sums.iter_mut().zip(four) {
                *sum = sum.wrapping_add(*q);
            }
        }
        let [low, high] = [sums[0].wrapping_add(sums[1]), sums[2].wrapping_add(sums[3])];
        HalfSum { all: low.wrapping_add(high), pairs: (low & 0xffff) | high << 16 }
    }
}

// SAFETY: numbers and arrays of numbers.
unsafe impl Plain for Block {}

impl Block {
    /// The sum of the first or second 16 values, in units of 1.
    #[inline(always)]
    pub(super) fn half_sum(&self, half: usize) -> f32 {
        self.scale * self.halves[half].all as f32
    }

    /// Quantises 32 values. A value that is not a number makes the scale one, so that it is seen in
    /// every product.
    #[inline(always)]
    pub(super) fn quantize(&mut self, x: &[f32; STEP]) {
        // As integers, because there a NaN is the largest.
        let largest = x.iter().fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff));
        let largest = f32::from_bits(largest);
        let inverse = if largest > NEGLIGIBLE { MAX / largest } else { 0.0 };
        self.scale = if largest <= NEGLIGIBLE { 0.0 } else { largest / MAX };
        let mut rounded = [0_i32; STEP];
        for (q, v) in rounded.iter_mut().zip(x) {
            *q = round(v * inverse);
        }
        for (q, rounded) in self.q.iter_mut().zip(rounded) {
            *q = rounded as i8;
        }
        for (sum, half) in self.halves.iter_mut().zip(rounded.as_chunks::<{ STEP / 2 }>().0) {
            *sum = HalfSum::of(half);
        }
        self.sum = self.half_sum(0) + self.half_sum(1);
    }
}

/// `x` to the nearest integer, to even where there are two, if `|x|` is below 2²²; of what is no
/// number, any integer.
#[inline(always)]
fn round(x: f32) -> i32 {
    // There, a unit in the last place is 1: adding rounds, and the last bits are the integer.
    const LARGE: f32 = 1.5 * (1 << 23) as f32;
    (x + LARGE).to_bits().wrapping_sub(LARGE.to_bits()) as i32
}

/// Quantises values; `x.len()` is a multiple of 32 and `blocks` has one for each 32.
#[inline(always)]
pub(super) fn quantize(x: &[f32], blocks: &mut [Block]) {
    for (block, x) in blocks.iter_mut().zip(x.as_chunks::<STEP>().0) {
        block.quantize(x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantized(x: &[f32; STEP]) -> Block {
        let mut block = Block::default();
        block.quantize(x);
        block
    }

    #[test]
    fn values_sums_and_scale_agree() {
        let x: [f32; STEP] = std::array::from_fn(|i| ((i * 37 % 64) as f32 - 31.5) * 0.37);
        let b = quantized(&x);
        let largest = x.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        assert_eq!(b.scale, largest / MAX);
        for (v, q) in x.iter().zip(b.q) {
            assert!((v - b.scale * f32::from(q)).abs() <= 0.5001 * b.scale);
        }
        for half in 0..2 {
            let q = &b.q[16 * half..][..16];
            let sum = |keep: fn(usize) -> bool| -> i32 {
                q.iter().enumerate().filter(|(i, _)| keep(i % 4)).map(|(_, q)| i32::from(*q)).sum()
            };
            let HalfSum { all, pairs } = b.halves[half];
            assert_eq!(i32::from(pairs as i16), sum(|i| i < 2));
            assert_eq!(pairs >> 16, sum(|i| i >= 2));
            assert_eq!(all, sum(|_| true));
        }
        let total: i32 = b.q.iter().map(|q| i32::from(*q)).sum();
        assert!((b.sum - b.scale * total as f32).abs() <= 1e-4);
    }

    #[test]
    fn extremes() {
        assert_eq!(quantized(&[0.0; STEP]).scale, 0.0);
        assert_eq!(quantized(&[1e-38; STEP]).q, [0; STEP]);
        let mut x = [f32::MAX; STEP];
        x[3] = f32::MIN;
        let b = quantized(&x);
        assert_eq!((b.q[0], b.q[3]), (127, -127));
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            x[5] = bad;
            assert!(!quantized(&x).scale.is_finite(), "{bad}");
        }
    }
}
