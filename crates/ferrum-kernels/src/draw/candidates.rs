//! The tokens that may be drawn, and the filters that make them fewer.
//!
//! None sorts the vocabulary: top-k keeps a short list while it scans, and the filters by mass
//! select their border.

use std::cmp::Ordering;

use super::{Draw, DrawError, greedy, largest};

/// A token that may be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    token: u32,
    logit: f32,
    /// `exp((logit - largest logit left) / temperature)`: its probability but for a common factor.
    weight: f32,
}

/// The tokens that may be drawn, in the order of their numbers. At least one remains after every
/// filter.
#[derive(Debug, Default)]
pub struct Candidates {
    list: Vec<Candidate>,
    /// A copy of the list, to be put in another order.
    scratch: Vec<Candidate>,
}

impl Candidate {
    /// The likelier first, the lower id among equals: a total order, as no logit is NaN.
    fn likelier(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.token.cmp(&other.token))
    }
}

impl Candidates {
    /// The token that `draw` means in a row of logits, from which what may not come has been taken
    /// out ([`super::apply_mask`]). `typical_p` is the mass of [`Self::typical`]; 1: off.
    pub fn choose(
        &mut self,
        logits: &[f32],
        draw: &Draw,
        typical_p: f32,
    ) -> Result<u32, DrawError> {
        if draw.temperature == 0.0 {
            return greedy(logits);
        }
        self.fill(logits, draw.top_k)?;
        if typical_p < 1.0 {
            self.typical(typical_p);
        }
        if draw.top_p < 1.0 {
            self.top_p(draw.top_p);
        }
        if draw.min_p > 0.0 {
            self.min_p(draw.min_p);
        }
        Ok(self.draw(draw.temperature, draw.uniform))
    }

    /// Takes the `top_k` likeliest tokens of a row of logits, or all that are possible if `top_k`
    /// is 0.
    pub fn fill(&mut self, logits: &[f32], top_k: usize) -> Result<(), DrawError> {
        // Every logit is a number, and one at least is possible.
        largest(logits)?;
        self.list.clear();
        let k = if top_k == 0 { logits.len() } else { top_k.min(logits.len()) };
        // Once there are k, only a larger logit can enter: an equal one has a higher id.
        let (mut floor, mut cut) = (f32::NEG_INFINITY, false);
        for (token, &logit) in logits.iter().enumerate() {
            if logit > floor {
                // The two zeroes are equal.
                let logit = logit + 0.0;
                self.list.push(Candidate { token: token as u32, logit, weight: 0.0 });
                // The list is cut at twice its final length, so that cuts cost O(1) a token.
                if self.list.len() == 2 * k {
                    (floor, cut) = (self.keep_likeliest(k), true);
                }
            }
        }
        if self.list.len() > k {
            self.keep_likeliest(k);
            cut = true;
        }
        if cut {
            self.list.sort_unstable_by_key(|c| c.token);
        }
        Ok(())
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
    pub fn typical(&mut self, p: f32) {
        // With q = w / W: -ln q = ln W - ln w, so the distance of -ln q from its mean H is that
        // of ln w from its own mean; and ln w is the logit but for a constant.
        let total = self.weigh(1.0);
        let mean = self.list.iter().map(|c| f64::from(c.weight) / total * f64::from(c.logit));
        let mean: f64 = mean.sum();
        let distance = |c: &Candidate| (f64::from(c.logit) - mean).abs();
        let order = |a: &Candidate, b: &Candidate| {
            distance(a).total_cmp(&distance(b)).then_with(|| a.likelier(b))
        };
        self.keep_mass(total * f64::from(p), order);
    }

    /// Nucleus sampling (Holtzman et al. 2020, arXiv:1904.09751, section 3.1): the smallest set
    /// with mass `p` of the likeliest tokens.
    pub fn top_p(&mut self, p: f32) {
        let total = self.weigh(1.0);
        let target = total * f64::from(p);
        // All tokens below this together have less than the mass that may be left out (half of
        // it: so rounding cannot matter). This spares ordering them.
        let negligible = 0.5 * (total - target) / self.list.len() as f64;
        self.list.retain(|c| f64::from(c.weight) >= negligible);
        self.keep_mass(target, Candidate::likelier);
    }

    /// Min-p (Nguyen et al. 2024, arXiv:2407.01082, section 3): the tokens at least `p` times as
    /// likely as the likeliest.
    pub fn min_p(&mut self, p: f32) {
        let floor = self.max_logit() + p.ln();
        self.list.retain(|c| c.logit >= floor);
    }

    /// The largest logit that is left.
    fn max_logit(&self) -> f32 {
        self.list.iter().fold(f32::NEG_INFINITY, |max, c| max.max(c.logit))
    }

    /// Sets the weights for a temperature and returns their sum, which is at least 1.
    fn weigh(&mut self, temperature: f32) -> f64 {
        let (max, mut total) = (self.max_logit(), 0.0);
        for candidate in &mut self.list {
            candidate.weight = ((candidate.logit - max) / temperature).exp();
            total += f64::from(candidate.weight);
        }
        total
    }

    /// Keeps the first candidates in `order` whose weights reach `target` together, at least one.
    fn keep_mass(&mut self, target: f64, order: impl Fn(&Candidate, &Candidate) -> Ordering) {
        // A quickselect by mass: the border is within `start..end`, `mass` is that before `start`.
        let scratch = &mut self.scratch;
        scratch.clone_from(&self.list);
        let (mut start, mut end, mut mass) = (0, scratch.len(), 0.0);
        while end - start > 1 {
            let half = (end - start) / 2;
            let range = &mut scratch[start..end];
            range.select_nth_unstable_by(half, &order);
            let first: f64 = range[..half].iter().map(|c| f64::from(c.weight)).sum();
            if mass + first >= target {
                end = start + half;
            } else {
                mass += first;
                start += half;
            }
        }
        // The list itself stays in order.
        if let Some(last) = scratch[..end].iter().max_by(|a, b| order(a, b)) {
            self.list.retain(|c| order(c, last) != Ordering::Greater);
        }
    }

    /// The token at the share `uniform` (in `[0, 1)`) of the mass at `temperature`, which is above
    /// 0.
    pub fn draw(&mut self, temperature: f32, uniform: f64) -> u32 {
        let target = self.weigh(temperature) * uniform;
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
