//! Random numbers that are the same on every machine.

/// Numbers close to the standard normal distribution, from a seed and a name.
///
/// Each is the sum of twelve uniform 16-bit integers, centred and divided by 2^16 (the Irwin–Hall
/// distribution of order 12: mean 0, variance 1 - 2^-32, nothing beyond 6). Sums below 2^24 and a
/// power of two are exact in `f32`.
pub(super) struct Normals {
    state: u64,
}

/// Twelve times the mean of a uniform 16-bit integer.
const CENTRE: i32 = 6 * 0xffff;

impl Normals {
    /// The sequence of `name` under `seed`: the name is hashed (FNV-1a, 64 bits) so that each
    /// tensor has its own sequence, whatever other tensors there are.
    pub fn new(seed: u64, name: &str) -> Self {
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let mut normals = Normals { state: seed };
        normals.state = normals.bits() ^ hash;
        normals
    }

    /// The next number.
    pub fn next(&mut self) -> f32 {
        let mut sum = 0;
        for _ in 0..3 {
            let bits = self.bits();
            for shift in [0, 16, 32, 48] {
                sum += i32::from((bits >> shift) as u16);
            }
        }
        (sum - CENTRE) as f32 / 65536.0
    }

    /// 64 uniform bits: splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
    /// generators", OOPSLA 2014).
    fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_those_of_splitmix64() {
        // The first outputs for seed 1234567, as published with the reference implementation.
        let mut normals = Normals { state: 1_234_567 };
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973];
        assert_eq!([normals.bits(), normals.bits()], expected);
    }

    #[test]
    fn moments_are_those_of_a_normal() {
        let mut normals = Normals::new(7, "blk.0.attn_q.weight");
        let count = 200_000;
        let (mut sum, mut square, mut fourth) = (0.0f64, 0.0f64, 0.0f64);
        for _ in 0..count {
            let x = f64::from(normals.next());
            sum += x;
            square += x * x;
            fourth += x * x * x * x;
        }
        let n = f64::from(count);
        // Five standard errors each; the kurtosis of a sum of twelve is 3 - 1.2/12.
        assert!((sum / n).abs() < 5.0 / n.sqrt());
        assert!((square / n - 1.0).abs() < 5.0 * (2.0 / n).sqrt());
        assert!((fourth / n - 2.9).abs() < 5.0 * (96.0 / n).sqrt());
    }

    #[test]
    fn sequences_differ_by_name_and_seed() {
        let first = |seed, name: &str| {
            let mut normals = Normals::new(seed, name);
            [normals.next(), normals.next(), normals.next()]
        };
        assert_eq!(first(1, "a"), first(1, "a"));
        assert_ne!(first(1, "a"), first(1, "b"));
        assert_ne!(first(1, "a"), first(2, "a"));
    }
}
