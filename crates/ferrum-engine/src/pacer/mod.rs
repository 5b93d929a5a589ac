//! How much of a prompt to read beside running answers, so that their tokens keep coming.
//!
//! The pacer learns from measured steps what a step costs, and answers how many tokens of a prompt
//! fit into the time that is left of a target. It has no clock: durations are given to it.

mod cost;

use cost::{CostModel, FEATURES};

/// What a step computes, in the quantities that its time depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepLoad {
    /// Tokens of chunks that read prompts.
    pub prefill_tokens: usize,
    /// Pairs of such a token and a position that it attends to.
    pub prefill_pairs: usize,
    /// Sequences that decode.
    pub decodes: usize,
    /// Positions that these attend to.
    pub decode_pairs: usize,
    /// Rows of logits.
    pub rows: usize,
}

impl StepLoad {
    /// Adds a chunk of `len` tokens from position `start` on, with `rows` rows of logits, that
    /// reads a prompt (`prefill`) or decodes.
    pub fn add(&mut self, start: usize, len: usize, rows: usize, prefill: bool) {
        let pairs = pairs(start, len);
        self.rows += rows;
        if prefill {
            self.prefill_tokens += len;
            self.prefill_pairs += pairs;
        } else {
            self.decodes += 1;
            self.decode_pairs += pairs;
        }
    }

    /// The quantities in units that make their costs comparable on most machines: a step, 64
    /// tokens, 64 tokens at depth 1024, 4096 positions read, 8 rows.
    fn features(&self) -> [f64; FEATURES] {
        [
            1.0,
            self.prefill_tokens as f64 / TOKENS,
            self.prefill_pairs as f64 / PAIRS,
            self.decode_pairs as f64 / 4096.0,
            self.rows as f64 / 8.0,
        ]
    }
}

/// Prefill tokens in a unit of their cost.
const TOKENS: f64 = 64.0;
/// Pairs in a unit of their cost.
const PAIRS: f64 = 65536.0;
/// Where no answer waits for its next token, a step may take this many times the target: it is
/// still short enough for a new request, or the end of one, to be seen soon.
const ALONE: f64 = 5.0;
/// Reading gets at least this share of the time that decoding takes, also where that is more than
/// the target.
const LEAST_SHARE: f64 = 0.5;
/// Tokens that are read in a step before anything is known of the machine.
const UNKNOWN: usize = 32;

/// Pairs of `len` tokens from position `start` on and the positions that they attend to.
fn pairs(start: usize, len: usize) -> usize {
    len * start + len * (len + 1) / 2
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Pacer {
    /// Seconds that a step should take while answers run; `None`: steps are always full.
    target: Option<f64>,
    cost: CostModel,
    /// The most prefill tokens of a step that was measured. The cost of much more is a guess.
    seen: usize,
}

/// What a step may spend on reading prompts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrefillBudget {
    /// Tokens, at least one.
    pub tokens: usize,
    /// Seconds.
    pub seconds: f64,
    per_token: f64,
    per_pair: f64,
}

impl Pacer {
    /// A pacer for steps of `target` seconds while answers run; `None`: as long as they may be.
    pub fn new(target: Option<f64>) -> Self {
        Pacer { target, cost: CostModel::default(), seen: UNKNOWN }
    }

    /// Learns that a step took `seconds`.
    pub fn observe(&mut self, load: &StepLoad, seconds: f64) {
        if seconds.is_finite() && seconds > 0.0 {
            self.cost.observe(&load.features(), seconds);
            self.seen = self.seen.max(load.prefill_tokens);
        }
    }

    /// Seconds that a step is expected to take.
    pub fn predict(&self, load: &StepLoad) -> f64 {
        self.cost.predict(&load.features())
    }

    /// What a step with these `decodes` may spend on reading prompts.
    pub fn budget(&self, decodes: &StepLoad) -> PrefillBudget {
        let Some(target) = self.target else {
            let (tokens, seconds) = (usize::MAX, f64::INFINITY);
            return PrefillBudget { tokens, seconds, per_token: 0.0, per_pair: 0.0 };
        };
        let taken = self.predict(decodes);
        let seconds = match decodes.decodes {
            0 => (ALONE * target - taken).max(target),
            _ => (target - taken).max(LEAST_SHARE * taken),
        };
        let [_, tokens, pairs, ..] = self.cost.weights();
        PrefillBudget {
            tokens: self.seen.saturating_mul(2),
            seconds,
            per_token: tokens / TOKENS,
            per_pair: pairs / PAIRS,
        }
    }
}

impl PrefillBudget {
    /// Half of it: of the time, and of the tokens.
    pub fn half(&self) -> Self {
        let (tokens, seconds) = (self.tokens.div_ceil(2), self.seconds / 2.0);
        PrefillBudget { tokens, seconds, ..*self }
    }

    /// Tokens from position `start` on that fit.
    pub fn fitting(&self, start: usize) -> usize {
        // The largest n with linear·n + half·n² <= seconds.
        let half = self.per_pair / 2.0;
        let linear = self.per_token + self.per_pair * start as f64 + half;
        let root = (linear * linear + 4.0 * half * self.seconds).sqrt();
        // In this form nothing cancels, and half may be 0.
        let tokens = 2.0 * self.seconds / (linear + root);
        // A float that is too large, or 0 / 0 where nothing costs anything, is not a limit.
        if tokens.is_nan() { self.tokens } else { self.tokens.min(tokens as usize) }
    }

    /// Takes `len` tokens from position `start` on.
    pub fn take(&mut self, start: usize, len: usize) {
        let seconds = self.per_token * len as f64 + self.per_pair * pairs(start, len) as f64;
        self.seconds = (self.seconds - seconds).max(0.0);
        self.tokens = self.tokens.saturating_sub(len);
    }
}

#[cfg(test)]
mod tests;
