//! The random numbers of a request: a function of its seed and a counter, without state.

/// The increment of SplitMix64: 2^64 divided by the golden ratio, odd.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output function of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom
/// number generators"; constants of Stafford's variant 13).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A seed for member `index` of a family that shares `seed`.
pub(crate) fn derive(seed: u64, index: u64) -> u64 {
    mix(mix(seed).wrapping_add(index.wrapping_mul(GAMMA)))
}

/// A number in `[0, 1)`: the `counter`-th output of SplitMix64 from a start that `seed` scatters
/// over its period, so that neighbouring seeds share nothing.
pub(super) fn uniform(seed: u64, counter: u64) -> f64 {
    // The upper 53 bits, as many as a double has.
    (derive(seed ^ GAMMA, counter) >> 11) as f64 * (0.5f64).powi(53)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First outputs of SplitMix64 from state 0 (Vigna's splitmix64.c prints the same).
    #[test]
    fn known_values() {
        let outputs = [1u64, 2, 3].map(|n| mix(n.wrapping_mul(GAMMA)));
        assert_eq!(outputs, [0xe220a8397b1dcdaf, 0x6e789e6aa1b965f4, 0x06c45d188009454f]);
    }

    /// Mean and variance of the uniform distribution, along counters and along seeds.
    #[test]
    fn uniform_moments() {
        let n = 100_000u64;
        for along_seeds in [false, true] {
            let draws = (0..n).map(|i| if along_seeds { uniform(i, 9) } else { uniform(9, i) });
            let (mut sum, mut squares) = (0.0, 0.0);
            for x in draws {
                assert!((0.0..1.0).contains(&x));
                sum += x - 0.5;
                squares += (x - 0.5) * (x - 0.5);
            }
            // Five standard deviations of each mean.
            assert!((sum / n as f64).abs() < 5.0 * (1.0f64 / 12.0 / n as f64).sqrt());
            assert!(
                (squares / n as f64 - 1.0 / 12.0).abs() < 5.0 * (1.0f64 / 180.0 / n as f64).sqrt()
            );
        }
    }
}
