//! [`crate::Backend::logprobs`]: by its definition, over tokens that are sorted.

use super::Reference;
use super::sample::transformed;
use crate::draw::{DRAW_INTS, DrawError, Drawn, LOGPROB_ENTRIES, logprobs::write};
use crate::draw::{Scored, TokenLogprobs};
use crate::params::Logprobs;
use crate::{Result, checks};

pub(super) fn logprobs(p: Logprobs<'_, Reference>) -> Result<()> {
    let (vocab, scale, softcap) = (p.vocab, p.scale, p.softcap);
    let view = checks::logprobs(p)?;
    let rows =
        view.logits.chunks_exact(vocab).zip(view.came).zip(view.ints.chunks_exact(DRAW_INTS));
    let tokens = view.tokens.chunks_exact_mut(LOGPROB_ENTRIES);
    let dst = tokens.zip(view.values.chunks_exact_mut(LOGPROB_ENTRIES));
    for (((values, &came), ints), (tokens, values_dst)) in rows.zip(dst) {
        let Ok(top) = usize::try_from(ints[5]) else { continue };
        let logits: Vec<f32> = values.iter().map(|&v| transformed(scale, softcap, v)).collect();
        let scored = Drawn(came).token().and_then(|token| score(&logits, token, top));
        write(&scored, tokens, values_dst);
    }
    Ok(())
}

fn score(logits: &[f32], token: u32, top: usize) -> Scored {
    let wrong = |logit: &f32| logit.is_nan() || *logit == f32::INFINITY;
    if let Some(token) = logits.iter().position(wrong) {
        return Err(DrawError::NotANumber { token });
    }
    let mut list: Vec<(u32, f64)> = (0..).zip(logits.iter().map(|&l| f64::from(l) + 0.0)).collect();
    // Stable: of equals the lower number comes first.
    list.sort_by(|a, b| b.1.total_cmp(&a.1));
    let highest = list.first().map_or(f64::NEG_INFINITY, |&(_, logit)| logit);
    if highest == f64::NEG_INFINITY {
        return Err(DrawError::NoToken);
    }
    let total: f64 = list.iter().map(|(_, logit)| (logit - highest).exp()).sum();
    let logprob = |logit: f64| (logit - highest - total.ln()) as f32;
    let of = |token: u32| logits.get(token as usize).map_or(f64::NEG_INFINITY, |&l| f64::from(l));
    Ok(TokenLogprobs {
        token,
        logprob: logprob(of(token)),
        top: list.iter().take(top).map(|&(token, logit)| (token, logprob(logit))).collect(),
    })
}
