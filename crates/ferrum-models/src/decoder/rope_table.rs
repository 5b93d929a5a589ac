//! Cosines and sines of the rotary position embedding.

use super::{RopeScaling, RopeSpec, Yarn};

/// The table `[positions, rotary_dim / 2, 2]` of (cos, sin) that the rope operation reads.
///
/// `divisors` are those of [`RopeSpec::divisors_for`], `rotary_dim / 2` of them. Angles are computed in
/// `f64`, so that late positions keep their precision.
pub fn rope_table(spec: &RopeSpec, divisors: Option<&[f32]>, positions: usize) -> Vec<f32> {
    let frequencies = frequencies(spec, divisors, positions);
    let magnitude = f64::from(spec.magnitude);
    let mut table = Vec::with_capacity(positions * frequencies.len() * 2);
    for position in 0..positions {
        for frequency in &frequencies {
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            table.extend([(cos * magnitude) as f32, (sin * magnitude) as f32]);
        }
    }
    table
}

/// The angle of each pair from one position to the next.
fn frequencies(spec: &RopeSpec, divisors: Option<&[f32]>, positions: usize) -> Vec<f64> {
    let pairs = spec.rotary_dim / 2;
    let theta = theta(spec, positions);
    let mut all: Vec<f64> = (0..pairs).map(|i| theta.powf(-(i as f64) / pairs as f64)).collect();
    match &spec.scaling {
        RopeScaling::Linear(factor) => all.iter_mut().for_each(|f| *f /= f64::from(*factor)),
        RopeScaling::Yarn(yarn) => {
            let (low, high) = yarn_range(yarn, theta, spec.rotary_dim);
            for (i, f) in all.iter_mut().enumerate() {
                let slow = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                *f = *f * (1.0 - slow) + *f / f64::from(yarn.factor) * slow;
            }
        }
        _ => {
            for (f, divisor) in all.iter_mut().zip(divisors.unwrap_or_default()) {
                *f /= f64::from(*divisor);
            }
        }
    }
    all
}

/// Theta, which dynamic scaling makes larger: by `(k · n / original - (k - 1))^(d / (d - 2))` for a
/// factor `k` and a context of `n` positions.
fn theta(spec: &RopeSpec, positions: usize) -> f64 {
    let theta = f64::from(spec.theta);
    match spec.scaling {
        RopeScaling::Dynamic { factor, original } if positions > original => {
            let (factor, dim) = (f64::from(factor), spec.rotary_dim as f64);
            let stretch = factor * positions as f64 / original as f64 - (factor - 1.0);
            theta * stretch.powf(dim / (dim - 2.0))
        }
        _ => theta,
    }
}

/// The pairs between which YaRN goes over from unchanged to divided frequencies.
fn yarn_range(yarn: &Yarn, theta: f64, rotary_dim: usize) -> (f64, f64) {
    let dim = rotary_dim as f64;
    // The pair that turns so often over the original context.
    let pair = |turns: f32| {
        let turns = f64::from(turns) * std::f64::consts::TAU;
        dim * (yarn.original as f64 / turns).ln() / (2.0 * theta.ln())
    };
    let (mut low, mut high) = (pair(yarn.beta_fast), pair(yarn.beta_slow));
    if yarn.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dim - 1.0));
    // Lest a division by zero follow.
    (low, if low == high { high + 0.001 } else { high })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoder::RopeStyle;

    fn spec(scaling: RopeScaling) -> RopeSpec {
        RopeSpec {
            theta: 10_000.0,
            rotary_dim: 4,
            scaling,
            magnitude: 1.0,
            style: RopeStyle::Split,
        }
    }

    #[test]
    fn angles_follow_the_formula() {
        let table = rope_table(&spec(RopeScaling::None), None, 3);
        // Position 2, pair 1: frequency 10000^(-1/2) = 0.01.
        let (cos, sin) = (table[2 * 4 + 2], table[2 * 4 + 3]);
        assert!((cos - 0.02f32.cos()).abs() < 1e-7 && (sin - 0.02f32.sin()).abs() < 1e-7);
        assert_eq!(&table[..4], &[1.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn factors_and_divisors_slow_the_rotation() {
        let plain = rope_table(&spec(RopeScaling::None), None, 2);
        let scaled = rope_table(&spec(RopeScaling::Linear(2.0)), None, 3);
        assert_eq!(plain[4..8], scaled[8..12]);
        let spec = spec(RopeScaling::Divisors("d".into()));
        let divided = rope_table(&spec, Some(&[1.0, 2.0]), 3);
        assert_eq!(divided[4..6], plain[4..6]);
        assert_eq!(divided[8 + 2..8 + 4], plain[4 + 2..4 + 4]);
    }

    #[test]
    fn long_contexts_have_divisors_of_their_own() {
        let (short, long) = ("short".to_string(), "long".to_string());
        let spec = spec(RopeScaling::LongRope { short, long, original: 8 });
        assert_eq!(spec.divisors(), ["short", "long"]);
        assert_eq!([8, 9].map(|n| spec.divisors_for(n)), [Some("short"), Some("long")]);
    }

    #[test]
    fn dynamic_scaling_begins_beyond_the_original_context() {
        let dynamic = spec(RopeScaling::Dynamic { factor: 2.0, original: 3 });
        assert_eq!(rope_table(&dynamic, None, 3), rope_table(&spec(RopeScaling::None), None, 3));
        // (2 · 6 / 3 - 1)^(4 / 2) = 9, and pair 1 turns by the inverse of theta's root.
        let table = rope_table(&dynamic, None, 6);
        assert!((table[4 + 3] - (0.01f32 / 3.0).sin()).abs() < 1e-7);
    }
}
