//! What each step computes: a pure state machine that touches no device, clock or weights.
//!
//! Requests start in order of arrival while the KV cache has room for their known tokens. Every
//! sequence that decodes gets its token in every step; beside these, prompts are read in chunks,
//! as many tokens as the [`crate::pacer`] allows ([`policy`] says how sequences share them). When
//! a decoding sequence needs a block and none is free, the youngest running sequence is preempted:
//! it waits, first in line, to be recomputed with the tokens it has.
//!
//! A block whose positions are all computed is published, and from then on any sequence with the
//! same tokens (and salt) before it uses it in place of its own: when it starts, and while it reads
//! its prompt. The block that holds a sequence's last token is always its own, so nothing is ever
//! written to a shared one.
//!
//! Invariants (held by [`Scheduler::check_integrity`]): running and waiting sequences are each in
//! order of arrival, and every running one arrived before every waiting one; so the oldest request
//! always makes progress, and each request in its turn is the oldest.

mod config;
mod plan;
mod policy;

pub use config::SchedulerConfig;
pub use plan::{Chunk, Plan};

use std::collections::VecDeque;

use ferrum_models::{KV_BLOCK_SIZE, runner::RunnerLimits};

use crate::{
    blocks::BlockPool,
    error::{AdmissionError, EngineError},
    pacer::Pacer,
    request::RequestId,
    sequence::{Sequence, SequenceSpec},
    speculation::{Acceptance, Source},
};

/// Requests that wait and run, and the KV blocks they hold.
#[derive(Debug)]
pub struct Scheduler {
    /// Tokens that a sequence may have by the model's context.
    context: usize,
    /// Tokens that a sequence may have when it has the cache to itself.
    cache: usize,
    /// Tokens of a step.
    step_tokens: usize,
    /// Rows of logits of a step.
    step_rows: usize,
    /// Sequences that run at once.
    max_running: usize,
    /// Tokens that may be proposed for a sequence in a step.
    max_draft: usize,
    pool: BlockPool,
    pacer: Pacer,
    /// How often a draft model was right of late, whoever asked.
    draft_acceptance: Acceptance,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    preemptions: u64,
}

/// What becomes of a sequence after its logits. Tokens but the last are the proposed ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// It goes on with these tokens: none if its prompt is not yet read, else at least one.
    Tokens(Vec<u32>),
    /// It has ended; its blocks are to be freed.
    End,
}

impl Scheduler {
    /// A scheduler for a runner of these sizes.
    pub fn new(limits: &RunnerLimits, config: &SchedulerConfig) -> Result<Self, EngineError> {
        let sizes = config::sizes(limits, config)?;
        Ok(Scheduler {
            context: limits.context,
            // The last token of an answer is never written to the cache.
            cache: sizes.blocks_per_seq * KV_BLOCK_SIZE + 1,
            step_tokens: sizes.step_tokens,
            step_rows: limits.capacity.samples,
            max_running: sizes.max_running,
            max_draft: config.max_draft,
            pool: BlockPool::new(limits.kv_blocks, config.prefix_cache),
            pacer: Pacer::new(config.step_target),
            draft_acceptance: Acceptance::default(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            preemptions: 0,
        })
    }

    /// Tokens that a request may have, prompt and answer together.
    pub fn max_len(&self) -> usize {
        self.context.min(self.cache)
    }

    /// Queues a request. `id` must be larger than those before it. Refuses what could never run
    /// to its end.
    pub fn add(&mut self, id: RequestId, spec: SequenceSpec) -> Result<(), AdmissionError> {
        let newest = self.waiting.back().or(self.running.last());
        assert!(newest.is_none_or(|newest| newest.id < id), "{id} is not the newest");
        let SequenceSpec { ref prompt, max_tokens, .. } = spec;
        if prompt.is_empty() {
            return Err(AdmissionError::EmptyPrompt);
        }
        let Scheduler { context, cache, .. } = *self;
        let (prompt_len, total) = (prompt.len(), prompt.len().saturating_add(max_tokens));
        if total > context {
            return Err(AdmissionError::Context { prompt: prompt_len, max_tokens, context });
        }
        if total > cache {
            return Err(AdmissionError::Cache { prompt: prompt_len, max_tokens, cache });
        }
        let mut sequence = Sequence::new(id, spec);
        sequence.expect(self.draft_acceptance);
        self.waiting.push_back(sequence);
        Ok(())
    }

    /// Forgets a request and frees its blocks at once. Says whether it was there.
    pub fn remove(&mut self, id: RequestId) -> bool {
        if let Some(index) = self.running_index(id) {
            let sequence = self.running.remove(index);
            self.release(&sequence);
            return true;
        }
        let index = self.waiting.binary_search_by_key(&id, |sequence| sequence.id);
        index.is_ok_and(|index| self.waiting.remove(index).is_some())
    }

    /// Whether no request waits or runs.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Sequences that wait, and that run.
    pub fn queue(&self) -> (usize, usize) {
        (self.waiting.len(), self.running.len())
    }

    /// The account of the KV cache.
    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// Prompt and answer of a running request so far.
    pub fn tokens(&self, id: RequestId) -> Option<&[u32]> {
        self.running_index(id).map(|index| self.running[index].tokens.as_slice())
    }

    /// Tokens of a running request's prompt that were not computed for it.
    pub fn cached_tokens(&self, id: RequestId) -> Option<usize> {
        self.running_index(id).map(|index| self.running[index].cached)
    }

    /// Preemptions so far.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// Takes note of the seconds that a step took.
    pub fn observe(&mut self, plan: &Plan, seconds: f64) {
        self.pacer.observe(&plan.load, seconds);
    }

    /// Books a step that was run: `next` has an entry for each of [`Plan::judged`].
    ///
    /// # Panics
    /// If `plan` is not the last one that was scheduled, or `next` is of another length.
    pub fn commit(&mut self, plan: &Plan, next: Vec<Next>) {
        assert_eq!(plan.judged().count(), next.len(), "one outcome for each sequence with logits");
        let mut next = next.into_iter();
        for chunk in &plan.chunks {
            let index = self.running_index(chunk.id).expect("a planned sequence runs");
            let sequence = &mut self.running[index];
            assert_eq!(sequence.computed, chunk.start, "{}: not the last plan", chunk.id);
            sequence.advance(chunk.len - chunk.draft);
            let outcome = if chunk.rows > 0 { next.next() } else { Some(Next::Tokens(vec![])) };
            if let Some(Next::Tokens(tokens)) = &outcome {
                // Of the proposed tokens, those that were sampled indeed; what was written for the
                // others will be written over.
                sequence.advance(tokens.len().saturating_sub(1));
                if sequence.source == Source::Draft {
                    self.draft_acceptance.judge(&sequence.proposed, tokens);
                }
                sequence.push(tokens);
            }
            sequence.publish(chunk.start, &mut self.pool);
            if outcome.is_none_or(|outcome| outcome == Next::End) {
                self.remove(chunk.id);
            }
        }
        if cfg!(debug_assertions) {
            self.check_integrity();
        }
    }

    /// Holds the state against the invariants of this module and of the pool.
    ///
    /// # Panics
    /// If one is broken.
    pub fn check_integrity(&self) {
        assert!(self.ids().is_sorted_by(|a, b| a < b), "sequences are not in order of arrival");
        assert!(self.running.len() <= self.max_running, "too many sequences run");
        for sequence in &self.waiting {
            assert!(sequence.blocks.is_empty(), "{} waits with blocks", sequence.id);
            assert_eq!(sequence.computed, 0, "{} waits half computed", sequence.id);
        }
        for sequence in &self.running {
            let Sequence { id, tokens, computed, blocks, .. } = sequence;
            assert!(*computed < tokens.len(), "{id} has nothing left to compute");
            assert!(
                *computed <= blocks.len() * KV_BLOCK_SIZE,
                "{id} is computed beyond its blocks"
            );
            assert!(tokens.len() <= self.max_len(), "{id} is longer than was admitted");
            sequence.check_published(&self.pool);
        }
        self.pool.check_integrity(self.running.iter().flat_map(|s| s.blocks.iter().copied()));
    }

    /// Ids of all requests: those that run, then those that wait.
    fn ids(&self) -> impl Iterator<Item = RequestId> {
        self.running.iter().chain(&self.waiting).map(|sequence| sequence.id)
    }

    fn running_index(&self, id: RequestId) -> Option<usize> {
        self.running.binary_search_by_key(&id, |sequence| sequence.id).ok()
    }

    fn release(&mut self, sequence: &Sequence) {
        // Last block first, as the pool wants it.
        for &block in sequence.blocks.iter().rev() {
            self.pool.release(block);
        }
    }
}

#[cfg(test)]
mod tests;
