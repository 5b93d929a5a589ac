//! Cosines and sines of the rotary position embedding.

use super::RopeSpec;

/// The table `[positions, rotary_dim / 2, 2]` of (cos, sin) that the rope operation reads.
///
/// `factors` are the divisors of the frequencies, `rotary_dim / 2` of them. Angles are computed in
/// `f64`, so that late positions keep their precision.
pub fn rope_table(spec: &RopeSpec, factors: Option<&[f32]>, positions: usize) -> Vec<f32> {
    let pairs = spec.rotary_dim / 2;
    let frequencies: Vec<f64> = (0..pairs)
        .map(|i| {
            let exponent = -(i as f64) / pairs as f64;
            let divisor = factors.map_or(1.0, |f| f64::from(f[i]));
            f64::from(spec.scale) * f64::from(spec.theta).powf(exponent) / divisor
        })
        .collect();
    let mut table = Vec::with_capacity(positions * pairs * 2);
    for position in 0..positions {
        for frequency in &frequencies {
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            table.extend([cos as f32, sin as f32]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoder::RopeStyle;

    fn spec(scale: f32) -> RopeSpec {
        RopeSpec { theta: 10_000.0, rotary_dim: 4, scale, factors: None, style: RopeStyle::Split }
    }

    #[test]
    fn angles_follow_the_formula() {
        let table = rope_table(&spec(1.0), None, 3);
        // Position 2, pair 1: frequency 10000^(-1/2) = 0.01.
        let (cos, sin) = (table[2 * 4 + 2], table[2 * 4 + 3]);
        assert!((cos - 0.02f32.cos()).abs() < 1e-7 && (sin - 0.02f32.sin()).abs() < 1e-7);
        assert_eq!(&table[..4], &[1.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn scale_and_factors_slow_the_rotation() {
        let plain = rope_table(&spec(1.0), None, 2);
        let scaled = rope_table(&spec(0.5), None, 3);
        assert_eq!(plain[4..8], scaled[8..12]);
        let factored = rope_table(&spec(1.0), Some(&[1.0, 2.0]), 3);
        assert_eq!(factored[4..6], plain[4..6]);
        assert_eq!(factored[8 + 2..8 + 4], plain[4 + 2..4 + 4]);
    }
}
