//! The values that codes stand for, before the scale.

use super::super::iq4::VALUES;

/// A set of values to round to.
pub(super) trait Levels {
    /// The nearest one.
    fn nearest(&self, value: f32) -> f32;

    /// The lowest and the highest.
    fn ends(&self) -> (f32, f32);
}

/// Whole numbers from the first to the second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whole(pub f32, pub f32);

impl Levels for Whole {
    fn nearest(&self, value: f32) -> f32 {
        round(value.max(self.0).min(self.1))
    }

    fn ends(&self) -> (f32, f32) {
        (self.0, self.1)
    }
}

/// The nearest whole number of one below 2²² in magnitude, ties to even: adding 1.5 · 2²³ leaves no
/// bits for a fraction. Every instruction set has vectors for it.
fn round(value: f32) -> f32 {
    const NO_FRACTION: f32 = 12_582_912.0;
    (value + NO_FRACTION) - NO_FRACTION
}

/// The uneven values of IQ4_NL and IQ4_XS.
#[derive(Debug, Clone, Copy)]
pub(super) struct Uneven;

impl Levels for Uneven {
    fn nearest(&self, value: f32) -> f32 {
        let mut nearest = f32::from(VALUES[0]);
        for pair in VALUES.windows(2) {
            let (low, high) = (f32::from(pair[0]), f32::from(pair[1]));
            // No branch, so that vectors serve.
            nearest += f32::from(u8::from(value > 0.5 * (low + high))) * (high - low);
        }
        nearest
    }

    fn ends(&self) -> (f32, f32) {
        (f32::from(VALUES[0]), f32::from(VALUES[15]))
    }
}

impl Uneven {
    /// The code of a value that [`Levels::nearest`] gave.
    pub fn code(value: f32) -> u8 {
        VALUES.iter().position(|v| f32::from(*v) == value).map_or(0, |code| code as u8)
    }
}
