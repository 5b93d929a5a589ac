//! The hidden states of a text to its vector.

use std::fmt;
use std::str::FromStr;

/// How the hidden states of a text's tokens become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// That of the first token.
    Cls,
    /// Their mean.
    Mean,
    /// Their sum over the root of their number.
    MeanSqrtLen,
    /// The largest of each value.
    Max,
    /// That of the last token.
    Last,
}

impl Pooling {
    /// All of them.
    pub const ALL: [Pooling; 5] =
        [Pooling::Cls, Pooling::Mean, Pooling::MeanSqrtLen, Pooling::Max, Pooling::Last];

    /// Its name in sentence-transformers.
    pub fn name(self) -> &'static str {
        match self {
            Pooling::Cls => "cls",
            Pooling::Mean => "mean",
            Pooling::MeanSqrtLen => "mean_sqrt_len_tokens",
            Pooling::Max => "max",
            Pooling::Last => "lasttoken",
        }
    }

    /// The vector `[width]` of the hidden states `[tokens, width]` of one text, which has some.
    pub(super) fn pool(self, states: &[f32], width: usize) -> Vec<f32> {
        let rows = || states.chunks_exact(width);
        let tokens = states.len() / width;
        match self {
            Pooling::Cls => states[..width].to_vec(),
            Pooling::Last => states[states.len() - width..].to_vec(),
            Pooling::Max => rows().fold(vec![f32::NEG_INFINITY; width], |mut largest, row| {
                largest.iter_mut().zip(row).for_each(|(l, x)| *l = l.max(*x));
                largest
            }),
            Pooling::Mean | Pooling::MeanSqrtLen => {
                let mut sums = vec![0.0f64; width];
                for row in rows() {
                    sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
                }
                let root = self == Pooling::MeanSqrtLen;
                let divisor = if root { (tokens as f64).sqrt() } else { tokens as f64 };
                sums.iter().map(|sum| (sum / divisor) as f32).collect()
            }
        }
    }
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Pooling {
    type Err = String;

    /// A name as sentence-transformers has it, or `last`.
    fn from_str(name: &str) -> Result<Self, String> {
        let known = || Pooling::ALL.map(Pooling::name).join(", ");
        let found = Pooling::ALL.into_iter().find(|p| p.name() == name);
        found
            .or((name == "last").then_some(Pooling::Last))
            .ok_or_else(|| format!("unknown pooling {name:?} (known: {}, last)", known()))
    }
}

/// Gives `x` the length 1; a vector of zeroes stays.
pub(super) fn normalize(x: &mut [f32]) {
    let norm = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    if norm > 0.0 {
        x.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
    }
}
