//! Floats of eight bits.

/// A float with four bits of exponent and three of mantissa, as its bits: the E4M3 of the OCP 8-bit
/// Floating Point Specification 1.0 (the "E4M3FN" of others).
///
/// With exponent bits `e` and mantissa bits `m` it is `±(8 + m) · 2^(e - 10)`, or `±m · 2^-9` where
/// `e` is zero: up to ±448, and down to ±2^-9. There are no infinities; all ones in `e` and `m` are
/// no number.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct E4m3(u8);

/// The largest finite one.
const LARGEST: f32 = 448.0;
/// The smallest with all four bits of precision, 2^-6.
const SMALLEST_NORMAL: f32 = 1.0 / 64.0;
/// The smallest: what all below [`SMALLEST_NORMAL`] are multiples of.
const UNIT: f32 = 1.0 / 512.0;
/// `e` and `m` all ones.
const NAN: u32 = 0x7f;
/// Bits of an `f32`'s mantissa that there is no room for.
const DROPPED: u32 = 20;
/// What the exponents of `f32` are biased by more, in the place of `e`.
const BIAS: u32 = (127 - 7) << 3;

impl E4m3 {
    /// Of these bits.
    pub fn from_bits(bits: u8) -> Self {
        E4m3(bits)
    }

    /// The bits.
    pub fn to_bits(self) -> u8 {
        self.0
    }

    /// Whether it is no number.
    #[inline(always)]
    pub fn is_nan(self) -> bool {
        u32::from(self.0 & 0x7f) == NAN
    }

    /// Rounds to nearest, ties to even. What is larger than any becomes the largest, ±448; what is
    /// not finite becomes no number, so that it is seen.
    #[inline(always)]
    pub fn from_f32(x: f32) -> Self {
        let sign = (x.to_bits() >> 24) as u8 & 0x80;
        let x = x.abs();
        let code = if !x.is_finite() {
            NAN
        } else if x < SMALLEST_NORMAL {
            // The numbers at 2^23 units are whole units, so the sum is rounded to one.
            const WHOLE: f32 = UNIT * (1 << 23) as f32;
            (x + WHOLE).to_bits() - WHOLE.to_bits()
        } else {
            let bits = x.min(LARGEST).to_bits();
            let even = bits >> DROPPED & 1;
            ((bits + (1 << (DROPPED - 1)) - 1 + even) >> DROPPED) - BIAS
        };
        E4m3(sign | code as u8)
    }

    /// The same number.
    #[inline(always)]
    pub fn to_f32(self) -> f32 {
        let magnitude = u32::from(self.0 & 0x7f);
        let value = if magnitude == NAN {
            f32::NAN
        } else if magnitude < 8 {
            magnitude as f32 * UNIT
        } else {
            f32::from_bits((magnitude + BIAS) << DROPPED)
        };
        if self.0 & 0x80 == 0 { value } else { -value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The formula, in double precision.
    fn exact(bits: u8) -> Option<f64> {
        let (e, m) = (i32::from(bits >> 3 & 15), f64::from(bits & 7));
        let magnitude = match (e, bits & 7) {
            (15, 7) => return None,
            (0, _) => m * 2f64.powi(-9),
            (e, _) => (8.0 + m) * 2f64.powi(e - 10),
        };
        Some(if bits & 0x80 == 0 { magnitude } else { -magnitude })
    }

    #[test]
    fn every_code_is_what_the_formula_says_and_its_own_rounding() {
        for bits in 0..=255 {
            let got = E4m3::from_bits(bits).to_f32();
            match exact(bits) {
                Some(want) => assert_eq!(got.to_bits(), (want as f32).to_bits(), "{bits:#x}"),
                None => assert!(got.is_nan(), "{bits:#x}"),
            }
            assert_eq!(E4m3::from_f32(got).to_bits(), bits, "{bits:#x}");
        }
    }

    /// At each middle between two neighbours and right beside it.
    #[test]
    fn rounds_to_nearest_and_ties_to_even() {
        for low in 0..0x7e {
            let high = low + 1;
            let ends = [low, high].map(|bits| E4m3::from_bits(bits).to_f32());
            // Both have four bits, so the middle is a single of five.
            let middle = (ends[0] + ends[1]) / 2.0;
            let even = if low % 2 == 0 { low } else { high };
            for (x, want) in [
                (ends[0].next_up(), low),
                (middle.next_down(), low),
                (middle, even),
                (middle.next_up(), high),
                (ends[1].next_down(), high),
            ] {
                assert_eq!(E4m3::from_f32(x).to_bits(), want, "{x:e}");
                assert_eq!(E4m3::from_f32(-x).to_bits(), want | 0x80, "{:e}", -x);
            }
        }
        for x in [f32::from_bits(1), 1e-30, UNIT / 2.0] {
            assert_eq!(E4m3::from_f32(x).to_bits(), 0, "{x:e}");
            assert_eq!(E4m3::from_f32(-x).to_bits(), 0x80, "{:e}", -x);
        }
    }

    #[test]
    fn the_finite_saturate_and_the_rest_is_no_number() {
        for x in [448.1, 464.0, 480.0, 1e9, f32::MAX] {
            assert_eq!(E4m3::from_f32(x).to_f32(), 448.0);
            assert_eq!(E4m3::from_f32(-x).to_f32(), -448.0);
        }
        for x in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN] {
            assert!(E4m3::from_f32(x).to_f32().is_nan(), "{x}");
        }
    }
}
