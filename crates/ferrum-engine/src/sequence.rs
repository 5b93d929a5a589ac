//! The state of one request in the scheduler.

use ferrum_models::KV_BLOCK_SIZE;

use crate::{
    blocks::{BlockId, BlockPool, Parent},
    request::RequestId,
};

/// What a request asks of the scheduler.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SequenceSpec {
    /// Its tokens before the first is sampled.
    pub prompt: Vec<u32>,
    /// Most tokens that will be sampled.
    pub max_tokens: usize,
    /// Whether the logits of all of the prompt are wanted, and not of its last token alone.
    pub score_prompt: bool,
    /// Sequences share blocks with those of the same salt.
    pub salt: u64,
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
    /// The largest value that `computed` had.
    reached: usize,
    salt: u64,
}

impl Sequence {
    pub(crate) fn new(id: RequestId, spec: SequenceSpec) -> Self {
        let SequenceSpec { prompt: tokens, score_prompt, salt, .. } = spec;
        let rows_from = if score_prompt { 0 } else { tokens.len() - 1 };
        let (computed, cached, reached) = (0, 0, 0);
        Sequence { id, tokens, computed, blocks: Vec::new(), rows_from, cached, reached, salt }
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

    /// Books that `len` more tokens are computed.
    pub(crate) fn advance(&mut self, len: usize) {
        self.computed += len;
        self.reached = self.reached.max(self.computed);
    }

    /// Publishes the blocks that are full now, and were not when `before` tokens were computed.
    pub(crate) fn publish(&mut self, before: usize, pool: &mut BlockPool) {
        for index in before / KV_BLOCK_SIZE..self.computed / KV_BLOCK_SIZE {
            let parent = self.parent(index);
            self.blocks[index] = pool.publish(self.blocks[index], parent, self.block(index));
        }
    }

    /// The blocks that others have computed and that come next in this sequence, up to the first
    /// token whose logits it wants. The first may be one that it has begun.
    pub(crate) fn find_computed(&self, pool: &BlockPool) -> Vec<BlockId> {
        let first = self.computed / KV_BLOCK_SIZE;
        let mut parent = self.parent(first);
        let mut found = Vec::new();
        for index in first..self.rows_from / KV_BLOCK_SIZE {
            let Some(block) = pool.find(parent, self.block(index)) else { break };
            found.push(block);
            parent = Parent::Block(block);
        }
        found
    }

    /// Goes on behind blocks that [`Sequence::find_computed`] found, in place of its own.
    pub(crate) fn take_computed(&mut self, found: &[BlockId], pool: &mut BlockPool) {
        for &block in found {
            let index = self.computed / KV_BLOCK_SIZE;
            pool.hold(block);
            match self.blocks.get_mut(index) {
                Some(own) => pool.release(std::mem::replace(own, block)),
                None => self.blocks.push(block),
            }
            self.computed = (index + 1) * KV_BLOCK_SIZE;
            self.cached += self.computed.saturating_sub(self.reached);
            self.reached = self.reached.max(self.computed);
        }
    }

    /// Whether this sequence is about to compute the next block that `other` needs.
    pub(crate) fn computes_for(&self, other: &Sequence) -> bool {
        let index = other.computed / KV_BLOCK_SIZE;
        let end = (index + 1) * KV_BLOCK_SIZE;
        // One that is slowed down by the logits that it wants before is not worth waiting for.
        let comes = end <= other.rows_from && end <= self.tokens.len() && end <= self.rows_from + 1;
        comes
            && (index * KV_BLOCK_SIZE..end).contains(&self.computed)
            && self.parent(index) == other.parent(index)
            && self.block(index) == other.block(index)
    }

    /// What the block of this index builds on.
    fn parent(&self, index: usize) -> Parent {
        match index.checked_sub(1) {
            Some(before) => Parent::Block(self.blocks[before]),
            None => Parent::Root(self.salt),
        }
    }

    /// Tokens of the full block of this index.
    fn block(&self, index: usize) -> &[u32] {
        &self.tokens[index * KV_BLOCK_SIZE..(index + 1) * KV_BLOCK_SIZE]
    }

    /// Holds the computed blocks against what the pool knows of them.
    ///
    /// # Panics
    /// If one is published under other tokens, or another block has its content.
    pub(crate) fn check_published(&self, pool: &BlockPool) {
        for index in 0..self.computed / KV_BLOCK_SIZE {
            let found = pool.find(self.parent(index), self.block(index));
            let own = self.blocks[index];
            assert!(found.is_none_or(|found| found == own), "{}: block {index}", self.id);
        }
    }
}
