//! Counters of an engine, for metrics and for a watchdog.

use std::time::Duration;

use crate::{generation::Progress, scheduler::Chunk};

/// The state of an [`crate::Engine`] between two steps; counters run from its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Steps of the model that were run. It grows while there is work, unless the engine hangs.
    pub steps: u64,
    /// Time of the last step, from its plan to its events.
    pub last_step: Duration,
    /// Requests that wait for room.
    pub waiting: usize,
    /// Requests that are read or answered.
    pub running: usize,
    /// Blocks of the KV cache, of [`ferrum_models::KV_BLOCK_SIZE`] positions.
    pub kv_blocks: usize,
    /// Blocks that no request holds, those with reusable content included.
    pub kv_blocks_free: usize,
    /// Of the free blocks, those with reusable content.
    pub kv_blocks_cached: usize,
    /// Blocks of a draft model's cache; 0 without one.
    pub draft_kv_blocks: usize,
    /// Of those, the ones that no request holds.
    pub draft_kv_blocks_free: usize,
    /// Whether a step of the draft model failed. It is asked no more then; answers do not change.
    pub draft_failed: bool,
    /// Tokens of prompts whose reading was complete, and of those the ones found in the cache.
    pub prefix_query_tokens: u64,
    /// See [`EngineStats::prefix_query_tokens`].
    pub prefix_hit_tokens: u64,
    /// Times that a request lost its blocks to an older one.
    pub preemptions: u64,
    /// Tokens of prompts that were computed, again after a preemption included.
    pub prompt_tokens: u64,
    /// Tokens that were sampled.
    pub generated_tokens: u64,
    /// Tokens that speculation proposed.
    pub drafted_tokens: u64,
    /// Of those, the ones that were sampled indeed.
    pub accepted_tokens: u64,
}

impl EngineStats {
    /// Counts the part of a prompt in a step.
    pub(crate) fn count_prompt(&mut self, chunk: &Chunk, request: &Progress) {
        let prompt = request.usage.prompt_tokens;
        let (start, end) = (chunk.start.min(prompt), (chunk.start + chunk.len).min(prompt));
        self.prompt_tokens += (end - start) as u64;
    }

    /// Counts what a step did for a request that had logits in it.
    pub(crate) fn count_answer(&mut self, chunk: &Chunk, before: &Progress, after: &Progress) {
        let sampled = after.usage.completion_tokens - before.usage.completion_tokens;
        self.generated_tokens += sampled as u64;
        self.drafted_tokens += chunk.draft as u64;
        self.accepted_tokens += sampled.saturating_sub(1) as u64;
        if after.prompt_read && !before.prompt_read {
            self.prefix_query_tokens += after.usage.prompt_tokens as u64;
            self.prefix_hit_tokens += after.usage.cached_tokens as u64;
        }
    }
}
