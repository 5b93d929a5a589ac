//! Log-probabilities of a row of logits.

use std::cmp::Ordering;

use ferrum_models::draw::largest;

use super::SampleError;
use crate::request::TokenLogprobs;

/// The log-probability of `token` in a row of `logits` `[vocab]`, and those of the `top` likeliest
/// tokens (the lower id first among equals): `logit - ln(sum(exp(logits)))`.
pub fn logprobs(logits: &[f32], token: u32, top: usize) -> Result<TokenLogprobs, SampleError> {
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
        let order = |&other: &u32| match logits[other as usize].total_cmp(&logit) {
            Ordering::Less => Ordering::Greater,
            _ => Ordering::Less,
        };
        let at = list.binary_search_by(order).unwrap_or_else(|at| at);
        list.insert(at, token as u32);
        list.truncate(count);
    }
    list
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
