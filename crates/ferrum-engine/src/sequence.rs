//! The state of one request in the scheduler.

use ferrum_models::KV_BLOCK_SIZE;

use crate::{blocks::BlockId, request::RequestId};

/// What a request asks of the scheduler.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SequenceSpec {
    /// Its tokens before the first is sampled.
    pub prompt: Vec<u32>,
    /// Most tokens that will be sampled.
    pub max_tokens: usize,
    /// Whether the logits of all of the prompt are wanted, and not of its last token alone.
    pub score_prompt: bool,
}

/// Tokens of a request, and how many of them the KV cache holds.
///
/// `tokens` is the prompt followed by what was sampled. The first `computed` of them have keys and
/// values in `blocks`; the last one never has while the sequence lives, since its logits are still
/// to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    pub(crate) id: RequestId,
    pub(crate) tokens: Vec<u32>,
    pub(crate) computed: usize,
    pub(crate) blocks: Vec<BlockId>,
    /// Position of the first token whose logits are still wanted: the last one, or one before it
    /// while the prompt is scored.
    pub(crate) rows_from: usize,
    /// Tokens of the prompt that were found in the cache.
    pub(crate) cached: usize,
}

impl Sequence {
    pub(crate) fn new(id: RequestId, spec: SequenceSpec) -> Self {
        let SequenceSpec { prompt: tokens, score_prompt, .. } = spec;
        let rows_from = if score_prompt { 0 } else { tokens.len() - 1 };
        Sequence { id, tokens, computed: 0, blocks: Vec::new(), rows_from, cached: 0 }
    }

    /// Tokens that are known but not in the cache. One while decoding, more before.
    pub(crate) fn remaining(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Of the tokens that remain, those whose logits nobody wants; they come first.
    pub(crate) fn without_rows(&self) -> usize {
        self.rows_from.saturating_sub(self.computed)
    }

    /// Books the logits of all that is computed, and the tokens that were sampled from them.
    pub(crate) fn push(&mut self, sampled: &[u32]) {
        self.tokens.extend_from_slice(sampled);
        self.rows_from = self.rows_from.max(self.computed);
    }

    /// Blocks that all known tokens take beyond those that the sequence has.
    pub(crate) fn blocks_missing(&self) -> usize {
        self.tokens.len().div_ceil(KV_BLOCK_SIZE) - self.blocks.len()
    }
}
