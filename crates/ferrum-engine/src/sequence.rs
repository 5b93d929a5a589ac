//! The state of one request in the scheduler.

use ferrum_models::KV_BLOCK_SIZE;

use crate::{blocks::BlockId, request::RequestId};

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
}

impl Sequence {
    pub(crate) fn new(id: RequestId, prompt: Vec<u32>) -> Self {
        Sequence { id, tokens: prompt, computed: 0, blocks: Vec::new() }
    }

    /// Tokens that are known but not in the cache. One while decoding, more before.
    pub(crate) fn remaining(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Blocks that all known tokens take beyond those that the sequence has.
    pub(crate) fn blocks_missing(&self) -> usize {
        self.tokens.len().div_ceil(KV_BLOCK_SIZE) - self.blocks.len()
    }
}
