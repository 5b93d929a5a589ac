//! Log-probabilities of a row of logits: how a host computes them, and what a device gives.

use std::cmp::Ordering;

use super::{DrawError, Drawn, RowDraw, largest};
use crate::{Backend, DType, Result};

/// Likeliest tokens that may be asked for with a row.
pub const MOST_LOGPROBS: usize = 20;
/// Entries of a row in [`LogprobBatch`].
pub const LOGPROB_ENTRIES: usize = 1 + MOST_LOGPROBS;

/// The log-probability of a token by the model itself: log-softmax of its logits as they come,
/// before bias, penalties, filters and temperature, to base e.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// The token that came.
    pub token: u32,
    /// Its log-probability; minus infinity where the model rules it out.
    pub logprob: f32,
    /// The likeliest tokens in its place, the likeliest first, whether or not it is among them.
    pub top: Vec<(u32, f32)>,
}

/// Log-probabilities of a row, or why there are none.
pub type Scored = std::result::Result<TokenLogprobs, DrawError>;

/// The log-probability of `token` in a row of `logits` `[vocab]`, and those of the `top` likeliest
/// tokens (the lower id first among equals, as the two zeroes are): `logit - ln(sum(exp(logits)))`.
pub fn logprobs(logits: &[f32], token: u32, top: usize) -> Scored {
    let max = largest(logits)?;
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - max).exp()).sum();
    let logprob = |logit: f32| (f64::from(logit - max) - sum.ln()) as f32;
    let likeliest = likeliest(logits, top).into_iter();
    Ok(TokenLogprobs {
        token,
        logprob: logits.get(token as usize).map_or(f32::NEG_INFINITY, |&logit| logprob(logit)),
        top: likeliest.map(|token| (token, logprob(logits[token as usize]))).collect(),
    })
}

/// The `count` likeliest tokens in order; fewer if the vocabulary has not as many.
fn likeliest(logits: &[f32], count: usize) -> Vec<u32> {
    let mut list: Vec<u32> = Vec::with_capacity(count + 1);
    if count == 0 {
        return list;
    }
    for (token, &logit) in logits.iter().enumerate() {
        // Only a larger logit can enter a full list: an equal one has a higher id.
        let last = list.last().map_or(f32::NEG_INFINITY, |&last| logits[last as usize]);
        if list.len() == count && logit <= last {
            continue;
        }
        // The sum makes the two zeroes equal.
        let order = |&other: &u32| match (logits[other as usize] + 0.0).total_cmp(&(logit + 0.0)) {
            Ordering::Less => Ordering::Greater,
            _ => Ordering::Less,
        };
        let at = list.binary_search_by(order).unwrap_or_else(|at| at);
        list.insert(at, token as u32);
        list.truncate(count);
    }
    list
}

/// What [`Backend::logprobs`] gives of a step's rows, in buffers of type `T` that are allocated once.
pub struct LogprobBatch<T> {
    /// `I32 [R, 21]`: the token that came, or as [`Drawn`] why the row has none; and the likeliest,
    /// as many as are wanted and there are.
    pub tokens: T,
    /// `F32 [R, 21]`: their log-probabilities.
    pub values: T,
    /// What is downloaded, kept so that a step allocates little.
    host: (Vec<i32>, Vec<f32>),
}

impl<T> LogprobBatch<T> {
    /// Room for `rows` rows.
    pub fn new<B: Backend<Buffer = T>>(backend: &B, rows: usize) -> Result<Self> {
        let len = rows.saturating_mul(LOGPROB_ENTRIES);
        let (tokens, values) = (backend.alloc(DType::I32, len)?, backend.alloc(DType::F32, len)?);
        Ok(LogprobBatch { tokens, values, host: Default::default() })
    }

    /// Downloads what the rows that `draws` says gave, of `vocab` tokens, after all work queued: for
    /// each row that wanted it.
    pub fn download<B: Backend<Buffer = T>>(
        &mut self,
        backend: &B,
        s: &mut B::Stream,
        draws: &[Option<RowDraw<'_>>],
        vocab: usize,
    ) -> Result<Vec<Option<Scored>>> {
        let (tokens, values) = &mut self.host;
        tokens.resize(draws.len() * LOGPROB_ENTRIES, 0);
        values.resize(draws.len() * LOGPROB_ENTRIES, 0.0);
        backend.download_i32(s, &self.tokens, tokens)?;
        backend.download_f32(s, &self.values, values)?;
        let rows = tokens.chunks_exact(LOGPROB_ENTRIES).zip(values.chunks_exact(LOGPROB_ENTRIES));
        let scored = |(draw, (tokens, values)): (&Option<RowDraw<'_>>, (&[i32], &[f32]))| {
            let count = draw.and_then(|draw| draw.logprobs)?;
            Some(scored(tokens, values, count.min(vocab)))
        };
        Ok(draws.iter().zip(rows).map(scored).collect())
    }
}

/// The row of a [`LogprobBatch`] with `count` of the likeliest tokens.
fn scored(tokens: &[i32], values: &[f32], count: usize) -> Scored {
    let token = Drawn(tokens[0]).token()?;
    let top = tokens[1..=count].iter().map(|token| token.cast_unsigned());
    let top = top.zip(values[1..].iter().copied()).collect();
    Ok(TokenLogprobs { token, logprob: values[0], top })
}

/// Writes what a device gives of a row, where a host is the device. What was asked for and is not there
/// stays as it was.
pub(crate) fn write(scored: &Scored, tokens: &mut [i32], values: &mut [f32]) {
    let &TokenLogprobs { token, logprob, ref top } = match scored {
        Ok(scored) => scored,
        Err(error) => {
            tokens[0] = Drawn::new(Err(*error)).0;
            return;
        }
    };
    let all = std::iter::once((token, logprob)).chain(top.iter().copied());
    for (((token, logprob), at), value) in all.zip(tokens).zip(values) {
        (*at, *value) = (token.cast_signed(), logprob);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_distribution() {
        // Probabilities 1/8, 2/8, 5/8, whatever is added to all logits.
        for offset in [0.0f32, 90.0, -90.0] {
            let logits = [1.0f32, 2.0, 5.0].map(|p| p.ln() + offset);
            let got = logprobs(&logits, 1, 2).unwrap();
            let close = |got: f32, p: f32| assert!((got - p.ln()).abs() < 1e-5, "{got} for {p}");
            close(got.logprob, 0.25);
            assert_eq!(got.top.iter().map(|&(token, _)| token).collect::<Vec<_>>(), [2, 1]);
            close(got.top[0].1, 0.625);
            close(got.top[1].1, 0.25);
        }
    }

    /// Held against a sort of the whole vocabulary, with many equal logits.
    #[test]
    fn the_likeliest_in_order() {
        let logits: Vec<f32> = (0..97u32).map(|i| ((i * i * 31) % 17) as f32 - 8.0).collect();
        let mut sorted: Vec<u32> = (0..97).collect();
        sorted.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        for count in [0, 1, 2, 5, 20, 96, 97] {
            assert_eq!(likeliest(&logits, count), sorted[..count]);
        }
        assert_eq!(likeliest(&logits, 200), sorted);
    }

    #[test]
    fn what_cannot_come_and_what_is_no_number() {
        let got = logprobs(&[0.0, f32::NEG_INFINITY], 1, 2).unwrap();
        assert_eq!(got.logprob, f32::NEG_INFINITY);
        assert_eq!(got.top, [(0, 0.0), (1, f32::NEG_INFINITY)]);
        assert!(logprobs(&[0.0, f32::NAN], 0, 1).is_err());
        assert!(logprobs(&[f32::NEG_INFINITY; 2], 0, 1).is_err());
    }
}
