//! When the engine asks its draft model, and for how much.

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

/// A draft model and how long it was not asked.
pub(crate) struct Drafting {
    draft: Draft,
    /// Steps in which proposals were wanted that would not have paid.
    idle: usize,
    /// Its step failed: it is asked no more.
    failed: bool,
}

impl Drafting {
    pub(crate) fn new(draft: Draft) -> Self {
        Drafting { draft, idle: 0, failed: false }
    }

    /// The draft model.
    pub(crate) fn draft(&self) -> &Draft {
        &self.draft
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
        if self.failed {
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

    fn depth(&self, scheduler: &Scheduler, wants: &[Want]) -> usize {
        let ids: Vec<RequestId> = wants.iter().map(|want| want.id).collect();
        scheduler.draft_depth(&ids, self.draft.step_seconds(ids.len()))
    }

    fn fail(&mut self) {
        self.draft.forget_all();
        self.failed = true;
    }
}
