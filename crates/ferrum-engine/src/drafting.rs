//! When the engine asks its draft model, and for how much.
//!
//! The scheduler's cost model chooses how many tokens to ask for. Whether it pays is measured
//! besides, for each number of sequences at once, since what many proposed tokens cost is no linear
//! matter: steps with proposals must give tokens faster than those without.

use std::collections::HashMap;

use crate::{
    draft::{Draft, Want},
    generation::Generation,
    request::RequestId,
    sampler::Workspace,
    scheduler::Scheduler,
    speculation::Source,
};

/// Steps after which a draft model that does not pay is tried again: texts and loads change.
const PATIENCE: usize = 128;

/// How much of the steps before counts with each new one.
const MEMORY: f64 = 0.9;
/// Steps of each kind before they are compared.
const LEAST: u32 = 3;
/// How much faster steps with proposals must be.
const GAIN: f64 = 1.03;
/// Steps with proposals after which one without is measured again.
const REFRESH: u32 = 64;
/// Steps that pass after proposals did not pay: at first, and at most.
const WAIT: (u32, u32) = (64, 2048);

/// Seconds and tokens of steps.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    seconds: f64,
    tokens: f64,
    steps: u32,
}

impl Pace {
    fn add(&mut self, seconds: f64, tokens: usize) {
        self.seconds = MEMORY * self.seconds + seconds;
        self.tokens = MEMORY * self.tokens + tokens as f64;
        self.steps = self.steps.saturating_add(1);
    }

    fn per_token(&self) -> f64 {
        self.seconds / self.tokens.max(f64::MIN_POSITIVE)
    }
}

/// What was measured with so many sequences at once.
#[derive(Debug, Clone, Copy)]
struct Trial {
    plain: Pace,
    drafted: Pace,
    /// Steps until proposals are tried again.
    wait: u32,
    /// Steps that pass the next time that they do not pay.
    patience: u32,
    /// Steps with proposals since one without.
    since_plain: u32,
}

impl Default for Trial {
    fn default() -> Self {
        let (plain, drafted) = (Pace::default(), Pace::default());
        Trial { plain, drafted, wait: 0, patience: WAIT.0, since_plain: 0 }
    }
}

impl Trial {
    /// Whether the next step may have proposals.
    fn allows(&mut self) -> bool {
        if self.wait > 0 {
            self.wait -= 1;
            return false;
        }
        self.plain.steps >= LEAST && self.since_plain < REFRESH
    }

    /// Learns what a step took and gave.
    fn observe(&mut self, drafted: bool, seconds: f64, tokens: usize) {
        if !drafted {
            self.plain.add(seconds, tokens);
            self.since_plain = 0;
            return;
        }
        self.drafted.add(seconds, tokens);
        self.since_plain += 1;
        if self.drafted.steps < LEAST {
            return;
        }
        if self.drafted.per_token() * GAIN < self.plain.per_token() {
            self.patience = WAIT.0;
        } else {
            (self.drafted, self.wait) = (Pace::default(), self.patience);
            self.patience = (2 * self.patience).min(WAIT.1);
        }
    }
}

/// A draft model and how long it was not asked.
pub(crate) struct Drafting {
    draft: Draft,
    /// Steps in which proposals were wanted that would not have paid.
    idle: usize,
    /// By the binary logarithm of the number of sequences that decode.
    trials: [Trial; 12],
    /// Whether it was asked for the step that comes.
    asked: bool,
    /// Its step failed: it is asked no more.
    failed: bool,
}

impl Drafting {
    pub(crate) fn new(draft: Draft) -> Self {
        let trials = [Trial::default(); 12];
        Drafting { draft, idle: 0, trials, asked: false, failed: false }
    }

    /// The draft model.
    pub(crate) fn draft(&self) -> &Draft {
        &self.draft
    }

    /// Whether it is asked no more because a step of it failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Lets go of a request that has ended.
    pub(crate) fn forget(&mut self, id: RequestId) {
        self.draft.forget(id);
    }

    /// Before a step: gives the scheduler what the draft model proposes for it, where that is
    /// expected to pay. Proposals change no answer, so a draft model that fails is merely not asked
    /// any more.
    pub(crate) fn prepare(
        &mut self,
        scheduler: &mut Scheduler,
        generations: &HashMap<RequestId, Generation>,
        workspace: &mut Workspace,
    ) {
        self.asked = false;
        if self.failed || !self.trial(scheduler.decoding()).allows() {
            return;
        }
        let mut wants = scheduler.draft_wants();
        if wants.is_empty() {
            return;
        }
        let tries = self.depth(scheduler, &wants) == 0;
        if tries {
            self.idle += 1;
            if self.idle < PATIENCE {
                return;
            }
            // The one that costs least to try with.
            wants.sort_by_key(|want| self.draft.unread(want));
            wants.truncate(1);
        }
        self.asked = true;
        let Ok(ready) = self.draft.read(&wants) else { return self.fail() };
        let mut ready = ready.into_iter();
        wants.retain(|_| ready.next() == Some(true));
        if wants.is_empty() {
            return;
        }
        let depth = self.depth(scheduler, &wants).max(usize::from(tries));
        if depth == 0 {
            return;
        }
        self.idle = 0;
        let mut guess = |id: RequestId, logits: &[f32], history: &[u32]| {
            generations.get(&id)?.guess(logits, history, workspace)
        };
        match self.draft.propose(&wants, depth, &mut guess) {
            Ok(proposals) => {
                for (id, proposed) in proposals {
                    scheduler.offer(id, Source::Draft, proposed);
                }
            }
            Err(_) => self.fail(),
        }
    }

    /// Learns of a step of `decodes` sequences that decode, with no prompt read besides.
    pub(crate) fn observe(&mut self, decodes: usize, seconds: f64, tokens: usize) {
        let asked = self.asked;
        self.trial(decodes).observe(asked, seconds, tokens);
    }

    fn trial(&mut self, decodes: usize) -> &mut Trial {
        let index = decodes.checked_ilog2().unwrap_or(0) as usize;
        &mut self.trials[index.min(11)]
    }

    fn depth(&self, scheduler: &Scheduler, wants: &[Want]) -> usize {
        let ids: Vec<RequestId> = wants.iter().map(|want| want.id).collect();
        scheduler.draft_depth(&ids, self.draft.step_seconds(ids.len()))
    }

    fn fail(&mut self) {
        self.draft.forget_all();
        self.failed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps with proposals among so many, where these steps take and give so much; one without
    /// takes a second for a token.
    fn drafted(steps: usize, seconds: f64, tokens: usize) -> usize {
        let mut trial = Trial::default();
        let mut count = 0;
        for _ in 0..steps {
            let allowed = trial.allows();
            count += usize::from(allowed);
            match allowed {
                true => trial.observe(true, seconds, tokens),
                false => trial.observe(false, 1.0, 1),
            }
        }
        count
    }

    #[test]
    fn what_pays_goes_on_and_what_does_not_is_tried_less_and_less() {
        assert_eq!(drafted(1000, 2.0, 3), 1000 - LEAST as usize - (1000 / 65));
        // Each trial takes three steps; between them 64, 128, 256, …
        assert_eq!(drafted(73, 3.0, 3), 6);
        assert_eq!(drafted(1000, 4.0, 3), 15);
        assert!(drafted(100_000, 4.0, 3) < 200);
    }
}
