//! Who gets what of the next step.
//!
//! Prompts share the time that decoding leaves: the oldest gets half of it for sure, the rest goes
//! to the prompt that will be read soonest, then to the next. So a short prompt gets past a long
//! one, and the long one is never held up by more than a factor of two. A prompt whose next block
//! an older sequence is about to compute waits for it, and the older one inherits its urgency.

use ferrum_models::KV_BLOCK_SIZE;

use super::{Plan, Scheduler, plan::Part};
use crate::{
    blocks::BlockId,
    draft::Want,
    pacer::{PrefillBudget, StepLoad},
    request::RequestId,
    sequence::Sequence,
    speculation::{Acceptance, Source, Speculation},
};

/// The part of a step that reads prompts, as it is given out.
struct Shares {
    /// Tokens of each running sequence.
    lens: Vec<usize>,
    /// Tokens that the step still has room for.
    tokens: usize,
    /// Rows of logits beyond one for each running sequence.
    spare_rows: usize,
}

impl Shares {
    /// Gives the sequence of this index up to `least` tokens, or as many as fit the budget if that
    /// is more. Returns how many.
    fn give(
        &mut self,
        index: usize,
        sequence: &Sequence,
        budget: &PrefillBudget,
        least: usize,
    ) -> usize {
        let given = self.lens[index];
        let wanted = (sequence.remaining() - given).min(self.tokens);
        // One that wants logits of more than its last token gets no further than rows allow.
        let free_of_charge = sequence.without_rows() + 1;
        let by_rows = free_of_charge.saturating_sub(given) + self.spare_rows;
        let fitting = budget.fitting(sequence.computed + given).max(least);
        let len = wanted.min(by_rows).min(fitting);
        let rows = |len: usize| len.saturating_sub(free_of_charge);
        self.spare_rows -= rows(given + len) - rows(given);
        self.tokens -= len;
        self.lens[index] += len;
        len
    }
}

impl Scheduler {
    /// Plans the next step; `None` when there is nothing to do. A plan that is not committed
    /// (because the step failed) changes nothing that matters: it can be planned again.
    pub fn schedule(&mut self) -> Option<Plan> {
        for sequence in &mut self.running {
            let found = sequence.find_computed(&self.pool);
            sequence.take_computed(&found, &mut self.pool);
        }
        self.reserve();
        while self.admit() {}
        let parts = self.share_out();
        if parts.is_empty() { None } else { Some(self.plan(&parts)) }
    }

    /// Gives each running sequence the blocks of its known tokens, oldest first, at the expense of
    /// the youngest.
    fn reserve(&mut self) {
        let mut index = 0;
        while let Some(sequence) = self.running.get_mut(index) {
            match self.pool.allocate(sequence.blocks_missing()) {
                Some(blocks) => {
                    sequence.blocks.extend(blocks);
                    index += 1;
                }
                None => self.preempt_youngest(),
            }
        }
    }

    fn preempt_youngest(&mut self) {
        if let Some(mut sequence) = self.running.pop() {
            self.release(&sequence);
            sequence.blocks.clear();
            sequence.computed = 0;
            self.preemptions += 1;
            self.waiting.push_front(sequence);
        }
    }

    /// Starts the request that waits longest, if there is room. One block for each sequence that
    /// already runs stays free, so that their next tokens do not undo the admission at once.
    fn admit(&mut self) -> bool {
        let Some(sequence) = self.waiting.front() else { return false };
        if self.running.len() >= self.max_running {
            return false;
        }
        let found = sequence.find_computed(&self.pool);
        let missing = sequence.blocks_missing() - found.len();
        let revived = found.iter().filter(|&&block| !self.pool.is_held(block)).count();
        if self.pool.free() < revived + missing + self.running.len() {
            return false;
        }
        let Some(mut sequence) = self.waiting.pop_front() else { return false };
        sequence.take_computed(&found, &mut self.pool);
        let blocks: Vec<BlockId> = self.pool.allocate(missing).expect("as many as were counted");
        sequence.blocks.extend(blocks);
        self.running.push(sequence);
        true
    }

    /// What each sequence gets of the next step: those that decode, then those that read their
    /// prompts, each in order of arrival.
    fn share_out(&mut self) -> Vec<Part> {
        let decodes = |sequence: &Sequence| sequence.remaining() == 1;
        let indices = (0..self.running.len()).filter(|&index| decodes(&self.running[index]));
        let mut parts: Vec<Part> = indices.map(|index| Part { index, len: 1, draft: 0 }).collect();
        let drafted = self.draft(&mut parts);
        let mut load = StepLoad::default();
        for part in &parts {
            load.add(self.running[part.index].computed, 1 + part.draft, 1 + part.draft, false);
        }
        let tokens = self.step_tokens - parts.len() - drafted;
        let spare_rows = self.step_rows - self.running.len() - drafted;
        let lens = self.share_prefill(&load, tokens, spare_rows);
        let reads = lens.into_iter().enumerate().filter(|&(_, len)| len > 0);
        parts.extend(reads.map(|(index, len)| Part { index, len, draft: 0 }));
        parts
    }

    /// Tokens that may be proposed in a step with `decodes` sequences that decode: half of what is
    /// spare, so that neither prompts nor scores of prompts wait for guesses; rounded down, so that
    /// the last token of a step is never one.
    fn spare_for_drafts(&self, decodes: usize) -> usize {
        if self.max_draft == 0 || decodes == 0 {
            return 0;
        }
        (self.step_tokens - decodes).min(self.step_rows - self.running.len()) / 2
    }

    /// A step in which the sequences that decode get their tokens, without proposals.
    fn plain_step(&self) -> Speculation {
        let mut load = StepLoad::default();
        let decoding = self.running.iter().filter(|sequence| sequence.remaining() == 1);
        decoding.for_each(|sequence| load.add(sequence.computed, 1, 1, false));
        let (tokens, seconds) = (load.decodes as f64, self.pacer.predict(&load));
        Speculation { tokens, seconds, per_token: self.pacer.row_seconds() }
    }

    /// Sequences that decode.
    pub(crate) fn decoding(&self) -> usize {
        self.running.iter().filter(|sequence| sequence.remaining() == 1).count()
    }

    /// The requests that a draft model may propose tokens for now: id, tokens, salt, and how many
    /// may be proposed.
    pub(crate) fn draft_wants(&mut self) -> Vec<Want> {
        let spare = self.spare_for_drafts(self.decoding());
        if spare == 0 {
            return Vec::new();
        }
        let most = self.max_draft.min(spare);
        for sequence in self.running.iter_mut().filter(|sequence| sequence.remaining() == 1) {
            sequence.propose(self.max_draft);
        }
        let wants = |sequence: &&Sequence| {
            sequence.remaining() == 1 && sequence.wants_draft() && sequence.proposable(most) > 0
        };
        let want = |sequence: &Sequence| {
            let (id, salt, most) = (sequence.id, sequence.salt(), sequence.proposable(most));
            Want { id, tokens: sequence.tokens.clone(), salt, most }
        };
        self.running.iter().filter(wants).map(want).collect()
    }

    /// How many tokens a draft model should propose for each of these requests, where it takes
    /// `seconds` for one of each; 0: it does not pay.
    pub(crate) fn draft_depth(&self, ids: &[RequestId], seconds: f64) -> usize {
        let acceptance = |&id: &RequestId| {
            self.running_index(id).map(|index| self.running[index].draft_acceptance())
        };
        let requests: Vec<Acceptance> = ids.iter().filter_map(acceptance).collect();
        let plain = self.plain_step();
        let spare = self.spare_for_drafts(plain.tokens as usize);
        let most = self.max_draft.min(spare / requests.len().max(1));
        plain.depth(&requests, seconds, most)
    }

    /// The requests that decode and that tokens may be proposed for: none where a step has no room.
    pub(crate) fn open_to_proposals(&self) -> Vec<RequestId> {
        let room = self.spare_for_drafts(self.decoding()) > 0;
        let decodes = |sequence: &&Sequence| room && sequence.remaining() == 1;
        self.running.iter().filter(decodes).map(|sequence| sequence.id).collect()
    }

    /// Takes what is proposed for a request.
    pub(crate) fn offer(&mut self, id: RequestId, source: Source, proposed: Vec<u32>) {
        if let Some(index) = self.running_index(id) {
            self.running[index].offer(source, proposed, self.max_draft);
        }
    }

    /// Adds proposed tokens to sequences that decode, where that makes tokens come faster. Returns
    /// how many.
    fn draft(&mut self, decodes: &mut [Part]) -> usize {
        let mut spare = self.spare_for_drafts(decodes.len());
        if spare == 0 {
            return 0;
        }
        let mut speculation = self.plain_step();
        let mut drafted = 0;
        for part in decodes {
            let sequence = &mut self.running[part.index];
            sequence.propose(self.max_draft);
            let most = sequence.proposed.len().min(spare);
            let wanted = { speculation }.add(sequence.acceptance(), most);
            if wanted > sequence.room() && self.pool.free() > self.max_running {
                sequence.blocks.extend(self.pool.allocate(1).unwrap_or_default());
            }
            part.draft = speculation.add(sequence.acceptance(), wanted.min(sequence.room()));
            spare -= part.draft;
            drafted += part.draft;
        }
        drafted
    }

    /// Tokens of each running sequence's prompt in the next step, of at most `tokens`, with
    /// `spare_rows` rows of logits beyond one for each.
    fn share_prefill(&self, decodes: &StepLoad, tokens: usize, spare_rows: usize) -> Vec<usize> {
        let mut shares = Shares { lens: vec![0; self.running.len()], tokens, spare_rows };
        let mut order = self.readers();
        let Some(&(_, oldest)) = order.first() else { return shares.lens };
        let mut budget = self.pacer.budget(decodes);
        budget.tokens = budget.tokens.min(tokens);
        let sequence = &self.running[oldest];
        // At least a token: the oldest always makes progress.
        let given = shares.give(oldest, sequence, &budget.half(), 1);
        budget.take(sequence.computed, given);
        order.sort_unstable();
        for (_, index) in order {
            let sequence = &self.running[index];
            let start = sequence.computed + shares.lens[index];
            let given = shares.give(index, sequence, &budget, 0);
            budget.take(start, given);
        }
        shares.lens
    }

    /// The sequences that read their prompts and wait for nobody, in order of arrival: (tokens
    /// until it or one that waits for it is served, index into `running`).
    fn readers(&self) -> Vec<(usize, usize)> {
        let mut urgency: Vec<usize> = self.running.iter().map(Sequence::remaining).collect();
        let mut waits = vec![false; self.running.len()];
        for (index, sequence) in self.running.iter().enumerate() {
            let older = &self.running[..index];
            if sequence.remaining() == 1 || !self.pool.keeps_contents() {
                continue;
            }
            if let Some(leader) = older.iter().position(|older| older.computes_for(sequence)) {
                let block_end = (sequence.computed / KV_BLOCK_SIZE + 1) * KV_BLOCK_SIZE;
                let until = block_end - self.running[leader].computed;
                urgency[leader] = urgency[leader].min(until);
                waits[index] = true;
            }
        }
        let reads = |&index: &usize| !waits[index] && self.running[index].remaining() > 1;
        (0..self.running.len()).filter(reads).map(|index| (urgency[index], index)).collect()
    }
}
