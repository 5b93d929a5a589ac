//! What each step computes: a pure state machine that touches no device, clock or weights.
//!
//! Policy: every sequence that decodes gets its token first; what is left of the step's token
//! budget goes to prefill chunks, oldest request first; then waiting requests are admitted in
//! order of arrival while the KV cache has room for their known tokens. When a decoding sequence
//! needs a block and none is free, the youngest running sequence is preempted: its blocks are
//! freed and it waits, first in line, to be recomputed with the tokens it has.
//!
//! Invariants (held by [`Scheduler::check_integrity`]): running and waiting sequences are each in
//! order of arrival, and every running one arrived before every waiting one; so the oldest request
//! always makes progress, and each request in its turn is the oldest.

mod plan;

pub use plan::{Chunk, Plan};

use std::collections::VecDeque;

use ferrum_models::{KV_BLOCK_SIZE, runner::RunnerLimits};

use crate::{
    blocks::BlockPool,
    error::{AdmissionError, EngineError},
    request::RequestId,
    sequence::{Sequence, SequenceSpec},
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
    pool: BlockPool,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    preemptions: u64,
}

/// What becomes of a sequence after its logits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// It goes on with these tokens: none if its prompt is not yet read, else at least one.
    Tokens(Vec<u32>),
    /// It has ended; its blocks are to be freed.
    End,
}

/// What a step has left to give.
struct Budget {
    tokens: usize,
    /// Rows of logits beyond one for each running sequence.
    spare_rows: usize,
}

impl Budget {
    /// Takes the tokens of the next chunk of `sequence`, at least one.
    fn take(&mut self, sequence: &Sequence) -> usize {
        let wanted = sequence.remaining().min(self.tokens);
        // A sequence that wants logits from some position on gets no further than rows allow.
        let len = wanted.min(sequence.without_rows() + 1 + self.spare_rows);
        self.tokens -= len;
        self.spare_rows -= len.saturating_sub(sequence.without_rows() + 1);
        len
    }
}

impl Scheduler {
    /// A scheduler for a runner of these sizes. At most `max_running` sequences run at once and a
    /// step has at most `step_tokens` tokens; both are lowered to what the runner can do.
    pub fn new(
        limits: &RunnerLimits,
        max_running: Option<usize>,
        step_tokens: Option<usize>,
    ) -> Result<Self, EngineError> {
        let capacity = &limits.capacity;
        let step_tokens = step_tokens.unwrap_or(usize::MAX).min(capacity.tokens);
        // Each running sequence must be able to decode in the same step.
        let max_running = max_running
            .unwrap_or(usize::MAX)
            .min(capacity.seqs)
            .min(capacity.samples)
            .min(step_tokens);
        let blocks = limits.kv_blocks.min(capacity.blocks_per_seq);
        let zero = [
            ("a vocabulary", limits.vocab),
            ("a context", limits.context),
            ("a KV cache", blocks),
            ("a step", step_tokens),
            ("a batch", max_running),
        ];
        if let Some((what, _)) = zero.into_iter().find(|&(_, size)| size == 0) {
            return Err(EngineError::Limits { what: format!("{what} of size 0") });
        }
        if i32::try_from(limits.kv_blocks.saturating_mul(KV_BLOCK_SIZE)).is_err() {
            let what = format!("{} KV blocks: a cache slot is an i32", limits.kv_blocks);
            return Err(EngineError::Limits { what });
        }
        if i32::try_from(limits.vocab).is_err() {
            let what = format!("a vocabulary of {}: a token id is an i32", limits.vocab);
            return Err(EngineError::Limits { what });
        }
        Ok(Scheduler {
            context: limits.context,
            // The last token of an answer is never written to the cache.
            cache: blocks * KV_BLOCK_SIZE + 1,
            step_tokens,
            step_rows: capacity.samples,
            max_running,
            pool: BlockPool::new(limits.kv_blocks),
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
        self.waiting.push_back(Sequence::new(id, spec));
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

    /// Plans the next step; `None` when there is nothing to do. A plan that is not committed
    /// (because the step failed) changes nothing that matters: it can be planned again.
    pub fn schedule(&mut self) -> Option<Plan> {
        self.reserve();
        let mut budget = Budget {
            tokens: self.step_tokens,
            // Each running sequence has a row, whatever the others want.
            spare_rows: self.step_rows - self.max_running,
        };
        // (index into `running`, tokens), decodes first.
        let mut parts = Vec::new();
        for decodes in [true, false] {
            for (index, sequence) in self.running.iter().enumerate() {
                if (sequence.remaining() == 1) == decodes && budget.tokens > 0 {
                    parts.push((index, budget.take(sequence)));
                }
            }
        }
        while budget.tokens > 0 && self.admit() {
            let index = self.running.len() - 1;
            parts.push((index, budget.take(&self.running[index])));
        }
        if parts.is_empty() { None } else { Some(self.plan(&parts)) }
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
            sequence.computed += chunk.len;
            if chunk.rows > 0 {
                match next.next() {
                    Some(Next::Tokens(tokens)) => sequence.push(&tokens),
                    _ => {
                        self.remove(chunk.id);
                    }
                }
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
        for &block in &sequence.blocks {
            self.pool.release(block);
        }
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
        let missing = sequence.blocks_missing();
        if self.running.len() >= self.max_running || self.pool.free() < missing + self.running.len()
        {
            return false;
        }
        let (Some(blocks), Some(mut sequence)) =
            (self.pool.allocate(missing), self.waiting.pop_front())
        else {
            return false;
        };
        sequence.blocks = blocks;
        self.running.push(sequence);
        true
    }
}

#[cfg(test)]
mod tests;
