//! Routing of tokens to experts.

use super::math;
use super::shared::SharedSlice;
use super::simd::{Kernel, LANES, Simd};
use super::{Cpu, CpuStream, split_rows};
use crate::params::RouteTopk;
use crate::{Result, checks};

/// [`crate::Backend::route_topk`]
pub(super) fn route_topk(s: &mut CpuStream, p: RouteTopk<'_, Cpu>) -> Result<()> {
    let RouteTopk { rows, experts, used, normalize, scale, .. } = p;
    let view = checks::route_topk(p)?;
    let isa = s.isa;
    let (ids, weights) = (SharedSlice::new(view.ids), SharedSlice::new(view.weights));
    // The work for a token is that of choosing: `used` passes over the scores.
    split_rows(&mut s.team, rows, experts * used, &|range| {
        for t in range {
            let scores = &view.scores[t * experts..][..experts];
            let slots = t * used..(t + 1) * used;
            // SAFETY: each token is given to one thread.
            let (ids, weights) =
                unsafe { (ids.range_mut(slots.clone()), weights.range_mut(slots)) };
            choose(scores, ids);
            isa.dispatch(Softmax { scores, ids, weights, normalize, scale });
        }
    });
    Ok(())
}

/// The experts with the highest scores, the highest first and of equals the lower number. What is
/// no number counts as the least.
fn choose(scores: &[f32], ids: &mut [i32]) {
    let mut last: Option<(usize, f32)> = None;
    for id in ids {
        let mut best: Option<(usize, f32)> = None;
        for (e, score) in scores.iter().enumerate() {
            let score = f32::NEG_INFINITY.max(*score);
            // In the order of choice, what comes after the last one chosen.
            let free = last.is_none_or(|(l, least)| score < least || (score == least && e > l));
            if free && best.is_none_or(|(_, most)| score > most) {
                best = Some((e, score));
            }
        }
        // There is one, as there are no more ids than experts.
        *id = best.map_or(0, |(e, _)| e as i32);
        last = best;
    }
}

/// Softmax of a token's scores, of those chosen.
struct Softmax<'a> {
    scores: &'a [f32],
    ids: &'a [i32],
    weights: &'a mut [f32],
    normalize: bool,
    scale: f32,
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Softmax { scores, ids, weights, normalize, scale } = self;
        let highest = scores[ids[0] as usize];
        for (weights, ids) in weights.chunks_mut(LANES).zip(ids.chunks(LANES)) {
            let mut x = [0.0; LANES];
            x.iter_mut().zip(ids).for_each(|(x, &id)| *x = scores[id as usize] - highest);
            math::exp(S::load(&x)).store(&mut x);
            weights.copy_from_slice(&x[..weights.len()]);
        }
        let mut total: f32 = weights.iter().sum();
        if !normalize {
            total = 0.0;
            for scores in scores.chunks(LANES) {
                let mut x = [0.0; LANES];
                x.iter_mut().zip(scores).for_each(|(x, score)| *x = score - highest);
                math::exp(S::load(&x)).store(&mut x);
                total += x[..scores.len()].iter().sum::<f32>();
            }
        }
        weights.iter_mut().for_each(|weight| *weight *= scale / total);
    }
}
