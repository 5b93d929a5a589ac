//! [`crate::Backend::sample`]: every filter by its definition, over tokens that are sorted.

use std::collections::HashMap;

use super::Reference;
use crate::draw::{Adjustment, DRAW_FLOATS, DRAW_INTS, Draw, DrawBatch, DrawError, Drawn};
use crate::host::HostBuffer;
use crate::params::Sample;
use crate::{Result, checks};

pub(super) fn sample(dst: &mut HostBuffer, p: &Sample<'_, Reference>) -> Result<()> {
    let view = checks::sample(dst, p)?;
    let words = DrawBatch::<HostBuffer>::words(p.vocab);
    let rows = view.logits.chunks_exact(p.vocab);
    let draws = view.ints.chunks_exact(DRAW_INTS).zip(view.floats.chunks_exact(DRAW_FLOATS));
    for ((dst, values), (ints, floats)) in view.dst.iter_mut().zip(rows).zip(draws) {
        let mask = usize::try_from(ints[1]).ok().map(|mask| &view.masks[mask * words..][..words]);
        let allowed = |token: usize| mask.is_none_or(|m| m[token / 32] >> (token % 32) & 1 == 1);
        let (tokens, changes) =
            Adjustment::arrays_of_row(ints, view.adjust_tokens, view.adjust_values);
        let adjusted = Adjustment::of_arrays(tokens, changes);
        let adjusted: HashMap<usize, Adjustment> =
            adjusted.map(|a| (a.token as usize, a)).collect();
        let logit = |(token, &value): (usize, &f32)| {
            let logit = transformed(p.scale, p.softcap, value);
            match adjusted.get(&token).map_or(logit, |a| changed(a, logit)) {
                logit if logit.is_nan() || allowed(token) => logit,
                _ => f32::NEG_INFINITY,
            }
        };
        let logits: Vec<f32> = values.iter().enumerate().map(logit).collect();
        *dst = match ints[4] {
            known @ 0.. => known,
            _ => Drawn::new(token(&logits, &Draw::of_arrays(ints, floats))).0,
        };
    }
    Ok(())
}

pub(super) fn transformed(scale: f32, softcap: Option<f32>, value: f32) -> f32 {
    let scaled = scale * value;
    softcap.map_or(scaled, |cap| cap * (scaled / cap).tanh())
}

/// By the definition of the fields, as all here is: [`Adjustment::apply`] is held against it.
fn changed(a: &Adjustment, logit: f32) -> f32 {
    let biased = logit + a.bias;
    let factor = if biased > 0.0 { biased / a.repetition } else { biased * a.repetition };
    factor - a.subtract
}

/// The token of a row.
fn token(logits: &[f32], draw: &Draw) -> std::result::Result<u32, DrawError> {
    let wrong = |logit: &f32| logit.is_nan() || *logit == f32::INFINITY;
    if let Some(token) = logits.iter().position(wrong) {
        return Err(DrawError::NotANumber { token });
    }
    let mut list: Vec<(usize, f64)> = (0..).zip(logits.iter().map(|&l| f64::from(l))).collect();
    list.retain(|(_, logit)| *logit > f64::NEG_INFINITY);
    // Stable, and the two zeroes are equal: of equals the lower number comes first.
    list.sort_by(|a, b| (b.1 + 0.0).total_cmp(&(a.1 + 0.0)));
    let &(first, highest) = list.first().ok_or(DrawError::NoToken)?;
    if draw.temperature == 0.0 {
        return Ok(first as u32);
    }
    if draw.top_k > 0 {
        list.truncate(draw.top_k);
    }
    if draw.top_p < 1.0 {
        let total: f64 = list.iter().map(|(_, logit)| (logit - highest).exp()).sum();
        let mut mass = 0.0;
        let reached = list.iter().position(|(_, logit)| {
            mass += (logit - highest).exp();
            mass >= f64::from(draw.top_p) * total
        });
        list.truncate(reached.map_or(list.len(), |last| last + 1));
    }
    list.retain(|(_, logit)| *logit >= highest + f64::from(draw.min_p).ln());
    list.sort_by_key(|&(token, _)| token);
    let weight = |logit: f64| ((logit - highest) / f64::from(draw.temperature)).exp();
    let total: f64 = list.iter().map(|&(_, logit)| weight(logit)).sum();
    let mut mass = 0.0;
    let drawn = list.iter().find(|(_, logit)| {
        mass += weight(*logit);
        mass > total * draw.uniform
    });
    Ok(drawn.map_or(first, |&(token, _)| token) as u32)
}
