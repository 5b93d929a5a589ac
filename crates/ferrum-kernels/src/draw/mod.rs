//! Drawing a token from a row of logits: what is asked for each row, and how it is done on a host.
//!
//! The order of the filters is top-k, (locally typical), top-p, min-p; then the draw at the
//! temperature. They judge the distribution at temperature 1, so that a high temperature spreads the
//! draw over what they left and no further. A token's place in the draw is its number: which token a
//! uniform number means depends on nothing but the set that is left and its weights.

mod adjust;
mod batch;
mod candidates;
pub(crate) mod logprobs;

pub use adjust::{ADJUST_FLOATS, Adjustment, apply_adjustments};
pub use batch::{DRAW_FLOATS, DRAW_INTS, DrawBatch, DrawSizes, Drawn};
pub use candidates::Candidates;
pub use logprobs::{LOGPROB_ENTRIES, LogprobBatch, MOST_LOGPROBS, Scored, TokenLogprobs, logprobs};

/// How the token of a row is drawn. The default is greedy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// Logits are divided by it before the draw; at least 0. 0: the most likely token, the lowest
    /// number among equals, whatever the other fields say.
    pub temperature: f32,
    /// Keeps the `top_k` most likely tokens. 0: off.
    pub top_k: usize,
    /// Keeps the most likely tokens up to this mass (Holtzman et al. 2020, arXiv:1904.09751); above
    /// 0, at most 1. 1: off.
    pub top_p: f32,
    /// Keeps the tokens at least this many times as likely as the likeliest (Nguyen et al. 2024,
    /// arXiv:2407.01082); from 0 to 1. 0: off.
    pub min_p: f32,
    /// A random number, in `[0, 1)`: a multiple of 2⁻⁵³.
    pub uniform: f64,
}

impl Draw {
    /// The most likely token.
    pub const GREEDY: Draw =
        Draw { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, uniform: 0.0 };
}

impl Default for Draw {
    fn default() -> Self {
        Draw::GREEDY
    }
}

/// What is wanted of a row: a token and how it is found, and perhaps log-probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RowDraw<'a> {
    /// How.
    pub draw: Draw,
    /// A bit for each token, the lowest of the first word for token 0; tokens beyond them may not
    /// come. `None`: all may.
    pub mask: Option<&'a [u32]>,
    /// Logits that are changed before the token is drawn, in the order of their tokens.
    pub adjust: &'a [Adjustment],
    /// The token that comes, where it is known: nothing is drawn.
    pub known: Option<u32>,
    /// Log-probabilities are wanted: of the token that comes, and of this many likeliest ones; at most
    /// [`MOST_LOGPROBS`].
    pub logprobs: Option<usize>,
}

/// Why a row of logits gives no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DrawError {
    /// A logit is NaN, or plus infinity where the token may come: the model's arithmetic went wrong.
    #[error("the logit of token {token} is NaN or infinite")]
    NotANumber {
        /// The first such token.
        token: usize,
    },
    /// All logits are minus infinity, or no token may come.
    #[error("no token is possible")]
    NoToken,
}

/// The most likely token of a row, the lowest number among equals.
pub fn greedy(logits: &[f32]) -> Result<u32, DrawError> {
    let largest = largest(logits)?;
    let token = logits.iter().position(|&logit| logit == largest);
    token.map(|token| token as u32).ok_or(DrawError::NoToken)
}

/// The largest logit. Refuses NaN and plus infinity; minus infinity is a token that cannot come.
pub fn largest(logits: &[f32]) -> Result<f32, DrawError> {
    // Independent lanes and no early exit, so that it compiles to vector instructions.
    const LANES: usize = 16;
    let mut max = [f32::NEG_INFINITY; LANES];
    let mut numbers = [true; LANES];
    let (rows, rest) = logits.as_chunks::<LANES>();
    let mut padded = [f32::NEG_INFINITY; LANES];
    padded[..rest.len()].copy_from_slice(rest);
    for row in rows.iter().chain([&padded]) {
        for lane in 0..LANES {
            // False for NaN too.
            numbers[lane] &= row[lane] < f32::INFINITY;
            max[lane] = if row[lane] > max[lane] { row[lane] } else { max[lane] };
        }
    }
    if numbers.contains(&false) {
        let token = logits.iter().position(|&logit| logit.is_nan() || logit == f32::INFINITY);
        return Err(DrawError::NotANumber { token: token.unwrap_or_default() });
    }
    let max = max.into_iter().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY { Err(DrawError::NoToken) } else { Ok(max) }
}

/// Takes the tokens that may not come out of a row of logits: minus infinity. NaN stays, so that it
/// is still found.
pub fn apply_mask(mask: &[u32], logits: &mut [f32]) {
    let words = mask.iter().copied().chain(std::iter::repeat(0));
    for (word, logits) in words.zip(logits.chunks_mut(32)) {
        if word != u32::MAX {
            for (bit, logit) in logits.iter_mut().enumerate() {
                let allowed = word >> bit & 1 == 1;
                *logit = if allowed || logit.is_nan() { *logit } else { f32::NEG_INFINITY };
            }
        }
    }
}
