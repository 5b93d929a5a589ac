//! [`crate::Backend::route_topk`]: the highest scores of a token and their softmax.

use super::Reference;
use crate::params::RouteTopk;
use crate::{Result, checks};

pub(super) fn route_topk(p: RouteTopk<'_, Reference>) -> Result<()> {
    let (experts, used, normalize, scale) = (p.experts, p.used, p.normalize, f64::from(p.scale));
    let view = checks::route_topk(p)?;
    let tokens = view.ids.chunks_exact_mut(used).zip(view.weights.chunks_exact_mut(used));
    for (scores, (ids, weights)) in view.scores.chunks_exact(experts).zip(tokens) {
        let mut order: Vec<usize> = (0..experts).collect();
        // Stable, so that of equals the lower number comes first.
        order.sort_by(|&a, &b| rank(scores[b]).total_cmp(&rank(scores[a])));
        let highest = f64::from(scores[order[0]]);
        let exp = |e: usize| (f64::from(scores[e]) - highest).exp();
        let counted = if normalize { &order[..used] } else { &order[..] };
        let total: f64 = counted.iter().map(|&e| exp(e)).sum();
        for ((id, weight), &e) in ids.iter_mut().zip(weights).zip(&order) {
            *id = e as i32;
            *weight = (scale * exp(e) / total) as f32;
        }
    }
    Ok(())
}

/// What scores are ordered by: the two zeroes are equal, and what is no number is least.
fn rank(score: f32) -> f32 {
    if score.is_nan() { f32::NEG_INFINITY } else { score + 0.0 }
}
