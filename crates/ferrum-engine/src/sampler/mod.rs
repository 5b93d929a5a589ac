//! From a row of logits to a token.
//!
//! The order is that of llama.cpp's default chain: logit bias, penalties, grammar, top-k, typical,
//! top-p, min-p, temperature, draw. So the filters judge the model's own distribution, and a high
//! temperature spreads the draw over what they left, no further. Each is off by its default.
//!
//! A temperature of 0 takes the most likely token after bias and penalties, the lowest id among
//! equals. Otherwise the draw depends on the seed and on the length of the sequence alone, so
//! neither the batch nor a preemption changes it.
//!
//! Where typical is off, a device can draw the token, with the grammar's mask and the logits that bias
//! and penalties adjust ([`Sampler::row_draw`]): it is the same but for the rounding of weights. Whether it
//! does may depend on the batch, as adjusted logits need room that requests share.

mod params;
mod penalties;
mod rng;

pub use params::{ParamError, SamplingParams};
pub(crate) use rng::derive as derive_seed;

use ferrum_models::draw::{Candidates, Draw, DrawError, Drawn, RowDraw, apply_adjustments};

use crate::constraint::{ConstraintFailure, ConstraintState};

use penalties::{Adjusted, TokenCounts};

/// Why a row of logits gives no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// A logit is NaN or plus infinity: the model's arithmetic went wrong.
    #[error("the logit of token {token} is NaN or infinite")]
    NotANumber {
        /// The first such token.
        token: usize,
    },
    /// All logits are minus infinity.
    #[error("no token is possible")]
    NoToken,
    /// The grammar of the answer.
    #[error(transparent)]
    Constraint(#[from] ConstraintFailure),
}

impl From<DrawError> for SampleError {
    fn from(error: DrawError) -> Self {
        match error {
            DrawError::NotANumber { token } => SampleError::NotANumber { token },
            DrawError::NoToken => SampleError::NoToken,
        }
    }
}

/// Memory that samplers share, so that a step allocates nothing.
#[derive(Debug, Default)]
pub struct Workspace {
    logits: Vec<f32>,
    candidates: Candidates,
}

/// Chooses the tokens of one request.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    seed: u64,
    counts: TokenCounts,
    /// What becomes of the logits of the next tokens.
    adjusted: Adjusted,
    constraint: Option<ConstraintState>,
}

impl Sampler {
    /// A sampler for a vocabulary of `vocab` tokens. `default_seed` serves requests without one.
    pub fn new(
        mut params: SamplingParams,
        vocab: usize,
        default_seed: u64,
    ) -> Result<Self, ParamError> {
        params.validate(vocab)?;
        params.merge_biases();
        let seed = params.seed.unwrap_or(default_seed);
        let window = if params.has_penalties() { params.penalty_last_n } else { Some(0) };
        let counts = TokenCounts::new(window);
        Ok(Sampler { params, seed, counts, adjusted: Adjusted::default(), constraint: None })
    }

    /// Samples within a grammar: each token that [`Self::sample`] gives is one of its answer.
    pub fn within(mut self, constraint: Option<ConstraintState>) -> Self {
        self.constraint = constraint;
        self
    }

    /// Tokens that the grammar foresees: see [`ConstraintState::ahead`].
    pub fn ahead(&self) -> Vec<u32> {
        self.constraint.as_ref().map(ConstraintState::ahead).unwrap_or_default()
    }

    /// Whether the grammar's answer is complete, so that no token can follow.
    pub fn is_complete(&self) -> bool {
        self.constraint.as_ref().is_some_and(ConstraintState::is_complete)
    }

    /// Makes ready for [`Self::row_draw`] of the token after `history` and of those after each of
    /// `draft`. `false` where a device cannot draw them, or the grammar has failed, which
    /// [`Self::sample`] will tell; or where they would adjust more logits than there is `room` for,
    /// which otherwise gets less.
    pub fn prepare(&mut self, history: &[u32], draft: &[u32], room: &mut usize) -> bool {
        let typical = self.params.typical_p < 1.0 && self.params.temperature > 0.0;
        if typical || self.params.adjusts() && !self.adjust_rows(history, draft, room) {
            return false;
        }
        self.constraint.as_mut().is_none_or(|constraint| constraint.mask().is_ok())
    }

    /// The logits that the rows of a device adjust; see [`Self::prepare`].
    fn adjust_rows(&mut self, history: &[u32], draft: &[u32], room: &mut usize) -> bool {
        // Each proposed token may be a new one in all rows after it.
        self.counts.update(history);
        let first = self.counts.len() + self.params.logit_bias.len();
        let all = (draft.len() + 1) * first + draft.len() * (draft.len() + 1) / 2;
        let Some(left) = room.checked_sub(all) else { return false };
        *room = left;
        self.adjust_next(history.len());
        if !draft.is_empty() {
            // As if they had come: behind one that does not come, nothing is looked at.
            let (mut counts, tokens) = (self.counts.clone(), [history, draft].concat());
            for end in history.len() + 1..=tokens.len() {
                counts.update(&tokens[..end]);
                self.adjusted.push(&self.params, &counts);
            }
        }
        true
    }

    /// The logits that are adjusted for the token after `len` others, which have been counted.
    fn adjust_next(&mut self, len: usize) {
        self.adjusted.begin(len);
        self.adjusted.push(&self.params, &self.counts);
    }

    /// Whether tokens are drawn within a grammar: then a draw is for the next token only.
    pub fn is_constrained(&self) -> bool {
        self.constraint.is_some()
    }

    /// How the token after `len` others is drawn, once [`Self::prepare`] has said that it can be.
    pub fn row_draw(&self, len: usize) -> RowDraw<'_> {
        let mask = self.constraint.as_ref().map(|constraint| constraint.last_mask().words());
        let adjust = if self.params.adjusts() { self.adjusted.after(len) } else { &[] };
        RowDraw { draw: self.draw(len), mask, adjust, ..RowDraw::default() }
    }

    /// Takes the token that was drawn, as if [`Self::sample`] had given it.
    pub fn take(&mut self, drawn: Drawn) -> Result<u32, SampleError> {
        let token = drawn.token()?;
        if let Some(constraint) = &mut self.constraint {
            constraint.commit(token)?;
        }
        Ok(token)
    }

    fn draw(&self, len: usize) -> Draw {
        let &SamplingParams { temperature, top_k, top_p, min_p, .. } = &self.params;
        Draw { temperature, top_k, top_p, min_p, uniform: rng::uniform(self.seed, len as u64) }
    }

    /// The token that follows `history` (prompt and answer so far), whose logits are `logits`
    /// `[vocab]`. From call to call, the history may only grow.
    pub fn sample(
        &mut self,
        logits: &[f32],
        history: &[u32],
        workspace: &mut Workspace,
    ) -> Result<u32, SampleError> {
        let Workspace { logits: adjusted, candidates } = workspace;
        let logits = self.adjust(logits, history, adjusted)?;
        let token = self.choose(logits, history.len(), candidates)?;
        if let Some(constraint) = &mut self.constraint {
            constraint.commit(token)?;
        }
        Ok(token)
    }

    /// What [`Self::sample`] would most likely give for these logits, without consequences: by the
    /// same draw, but without penalties and grammar. A model that proposes tokens guesses with it.
    pub fn guess(
        &self,
        logits: &[f32],
        history: &[u32],
        workspace: &mut Workspace,
    ) -> Result<u32, SampleError> {
        let Workspace { logits: adjusted, candidates } = workspace;
        let logits = match self.params.logit_bias.is_empty() {
            true => logits,
            false => {
                adjusted.clear();
                adjusted.extend_from_slice(logits);
                for &(token, bias) in &self.params.logit_bias {
                    // The other model may have fewer logits.
                    if let Some(logit) = adjusted.get_mut(token as usize) {
                        *logit += bias;
                    }
                }
                adjusted
            }
        };
        self.choose(logits, history.len(), candidates)
    }

    /// The token that follows `len` others, by these logits.
    fn choose(
        &self,
        logits: &[f32],
        len: usize,
        candidates: &mut Candidates,
    ) -> Result<u32, SampleError> {
        Ok(candidates.choose(logits, &self.draw(len), self.params.typical_p)?)
    }

    /// Takes `token` as if it had been sampled, if the grammar allows it; says whether it does.
    pub fn force(&mut self, token: u32) -> Result<bool, SampleError> {
        let Some(constraint) = &mut self.constraint else { return Ok(true) };
        let allowed = constraint.mask()?.allows(token);
        if allowed {
            constraint.commit(token)?;
        }
        Ok(allowed)
    }

    /// Logits with bias and penalties, minus infinity outside the grammar; those given when there
    /// are none.
    fn adjust<'a>(
        &mut self,
        logits: &'a [f32],
        history: &[u32],
        adjusted: &'a mut Vec<f32>,
    ) -> Result<&'a [f32], SampleError> {
        let adjusts = self.params.adjusts();
        if !adjusts && self.constraint.is_none() {
            return Ok(logits);
        }
        adjusted.clear();
        adjusted.extend_from_slice(logits);
        if adjusts {
            self.counts.update(history);
            self.adjust_next(history.len());
            apply_adjustments(self.adjusted.after(history.len()).iter().copied(), adjusted);
        }
        if let Some(constraint) = &mut self.constraint {
            constraint.mask()?.apply(adjusted);
        }
        Ok(adjusted)
    }
}

#[cfg(test)]
mod tests;
