//! Choices of a scheduler, held against the sizes of its runner.

use ferrum_models::{KV_BLOCK_SIZE, runner::RunnerLimits};

use crate::error::EngineError;

/// Choices of a [`super::Scheduler`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SchedulerConfig {
    /// Sequences that run at once, at most; `None`: as many as a step can hold.
    pub max_running: Option<usize>,
    /// Tokens of a step, at most; `None`: as many as a step can hold.
    pub step_tokens: Option<usize>,
    /// Whether computed prefixes are kept and shared.
    pub prefix_cache: bool,
    /// Seconds that a step should take while answers run; `None`: as long as it is when full.
    pub step_target: Option<f64>,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        SchedulerConfig {
            max_running: None,
            step_tokens: None,
            prefix_cache: true,
            step_target: None,
        }
    }
}

/// Sizes that a configuration and a runner allow.
pub(super) struct Sizes {
    pub step_tokens: usize,
    pub max_running: usize,
    pub blocks_per_seq: usize,
}

/// Lowers what the configuration asks for to what the runner can do; refuses what allows no
/// request at all.
pub(super) fn sizes(limits: &RunnerLimits, config: &SchedulerConfig) -> Result<Sizes, EngineError> {
    let capacity = &limits.capacity;
    let step_tokens = config.step_tokens.unwrap_or(usize::MAX).min(capacity.tokens);
    // Each running sequence must be able to decode in the same step.
    let max_running = config
        .max_running
        .unwrap_or(usize::MAX)
        .min(capacity.seqs)
        .min(capacity.samples)
        .min(step_tokens);
    let blocks_per_seq = limits.kv_blocks.min(capacity.blocks_per_seq);
    let zero = [
        ("a vocabulary", limits.vocab),
        ("a context", limits.context),
        ("a KV cache", blocks_per_seq),
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
    Ok(Sizes { step_tokens, max_running, blocks_per_seq })
}
