//! The tokens that may be drawn, and the filters that make them fewer.
//!
//! None sorts the whole vocabulary: top-k keeps a short list while it scans, and the filters by
//! mass order no more than the part they keep (doubled until it suffices).

use std::cmp::Ordering;

use super::{SampleError, check_numbers};

/// A token that may be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    token: u32,
    logit: f32,
    /// `exp(logit - largest logit)`: its probability but for the common factor.
    weight: f32,
}

/// The tokens that may be drawn. At least one remains after every filter.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    list: Vec<Candidate>,
}

/// How many candidates a filter by mass orders at first: the mass of most rows is in fewer.
const FIRST_ORDERED: usize = 256;

impl Candidate {
    /// The likelier first, the lower id among equals: a total order, as no logit is NaN.
    fn likelier(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.token.cmp(&other.token))
    }
}

impl Candidates {
    /// Takes the `top_k` likeliest tokens of a row of logits, or all that are possible if `top_k`
    /// is 0.
    pub(super) fn fill(&mut self, logits: &[f32], top_k: usize) -> Result<(), SampleError> {
        check_numbers(logits)?;
        self.list.clear();
        let k = if top_k == 0 { logits.len() } else { top_k.min(logits.len()) };
        // Once there are k, only a larger logit can enter: an equal one has a higher id.
        let mut floor = f32::NEG_INFINITY;
        for (token, &logit) in logits.iter().enumerate() {
            if logit > floor {
                self.list.push(Candidate { token: token as u32, logit, weight: 0.0 });
                // The list is cut at twice its final length, so that cuts cost O(1) a token.
                if self.list.len() == 2 * k {
                    floor = self.keep_likeliest(k);
                }
            }
        }
        if self.list.len() > k {
            self.keep_likeliest(k);
        }
        let max = self.list.iter().fold(f32::NEG_INFINITY, |max, c| max.max(c.logit));
        for candidate in &mut self.list {
            candidate.weight = (candidate.logit - max).exp();
        }
        if self.list.is_empty() { Err(SampleError::NoToken) } else { Ok(()) }
    }

    /// Cuts the list to its `k` likeliest and returns the smallest logit among them.
    fn keep_likeliest(&mut self, k: usize) -> f32 {
        let (_, kth, _) = self.list.select_nth_unstable_by(k - 1, Candidate::likelier);
        let floor = kth.logit;
        self.list.truncate(k);
        floor
    }

    /// Locally typical sampling (Meister et al. 2023, arXiv:2202.00666, section 3): the smallest
    /// set with mass `p` of the tokens whose information `-ln q` is nearest to the entropy.
    pub(super) fn typical(&mut self, p: f32) {
        // With q = w / W: -ln q = ln W - ln w, so the distance of -ln q from its mean H is that
        // of ln w from its own mean; and ln w is the logit but for a constant.
        let total = self.total();
        let mean = self.list.iter().filter(|c| c.weight > 0.0);
        let mean: f64 = mean.map(|c| f64::from(c.weight) / total * f64::from(c.logit)).sum();
        let distance = |c: &Candidate| (f64::from(c.logit) - mean).abs();
        self.keep_mass(p, |a, b| distance(a).total_cmp(&distance(b)).then(a.likelier(b)));
    }

    /// Nucleus sampling (Holtzman et al. 2020, arXiv:1904.09751, section 3.1): the smallest set
    /// with mass `p` of the likeliest tokens.
    pub(super) fn top_p(&mut self, p: f32) {
        self.keep_mass(p, Candidate::likelier);
    }

    /// Min-p (Nguyen et al. 2024, arXiv:2407.01082, section 3): the tokens at least `p` times as
    /// likely as the likeliest.
    pub(super) fn min_p(&mut self, p: f32) {
        let max = self.list.iter().fold(0.0f32, |max, c| max.max(c.weight));
        self.list.retain(|c| c.weight >= p * max);
    }

    /// The sum of the weights.
    fn total(&self) -> f64 {
        self.list.iter().map(|c| f64::from(c.weight)).sum()
    }

    /// Keeps the first candidates in `order` whose mass reaches the share `p` of all, at least
    /// one.
    fn keep_mass(&mut self, p: f32, order: impl Fn(&Candidate, &Candidate) -> Ordering) {
        let target = self.total() * f64::from(p);
        let (mut mass, mut ordered) = (0.0, 0);
        while ordered < self.list.len() {
            let rest = &mut self.list[ordered..];
            let next = ordered.max(FIRST_ORDERED).min(rest.len());
            if next < rest.len() {
                rest.select_nth_unstable_by(next, &order);
            }
            rest[..next].sort_unstable_by(&order);
            for candidate in &rest[..next] {
                mass += f64::from(candidate.weight);
                ordered += 1;
                if mass >= target {
                    self.list.truncate(ordered);
                    return;
                }
            }
        }
    }

    /// The token at the share `uniform` (in `[0, 1)`) of the mass at `temperature`, which is above
    /// 0.
    pub(super) fn draw(&mut self, temperature: f32, uniform: f64) -> u32 {
        if temperature != 1.0 {
            let max = self.list.iter().fold(f32::NEG_INFINITY, |max, c| max.max(c.logit));
            for candidate in &mut self.list {
                candidate.weight = ((candidate.logit - max) / temperature).exp();
            }
        }
        let target = self.total() * uniform;
        let mut mass = 0.0;
        let mut drawn = 0;
        for candidate in self.list.iter().filter(|c| c.weight > 0.0) {
            drawn = candidate.token;
            mass += f64::from(candidate.weight);
            if mass > target {
                break;
            }
        }
        drawn
    }
}

#[cfg(test)]
mod tests;
