//! The state of one request in the scheduler.

use ferrum_models::KV_BLOCK_SIZE;

use crate::{
    blocks::{BlockId, BlockPool, Parent},
    request::RequestId,
    speculation::{Acceptance, Source, propose},
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
    /// Number of its adapter; blocks are shared with those of the same one.
    pub adapter: u32,
}

/// Tokens of a request, and how many of them the KV cache holds.
///
/// `tokens` is the prompt followed by what was sampled. The first `computed` of them have keys and
/// values in `blocks`; the last one never has while the sequence lives, since its logits are still
/// to come.
#[derive(Debug, Clone, PartialEq)]
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
    pub(crate) adapter: u32,
    /// Tokens that it has at most.
    max_len: usize,
    /// Tokens proposed for after the last one, from the last plan.
    pub(crate) proposed: Vec<u32>,
    /// Where they come from.
    pub(crate) source: Source,
    lookup: Acceptance,
    grammar: Acceptance,
    draft: Acceptance,
}

impl Sequence {
    pub(crate) fn new(id: RequestId, spec: SequenceSpec) -> Self {
        let SequenceSpec { prompt: tokens, max_tokens, score_prompt, salt, adapter } = spec;
        let rows_from = if score_prompt { 0 } else { tokens.len() - 1 };
        Sequence {
            id,
            max_len: tokens.len() + max_tokens,
            tokens,
            computed: 0,
            blocks: Vec::new(),
            rows_from,
            cached: 0,
            reached: 0,
            salt,
            adapter,
            proposed: Vec::new(),
            source: Source::Lookup,
            lookup: Acceptance::default(),
            grammar: Acceptance::FORESEEN,
            draft: Acceptance::default(),
        }
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
        match self.source {
            Source::Lookup => self.lookup.judge(&self.proposed, sampled),
            Source::Grammar => self.grammar.judge(&self.proposed, sampled),
            Source::Draft => self.draft.judge(&self.proposed, sampled),
        }
        self.proposed.clear();
        self.tokens.extend_from_slice(sampled);
        self.rows_from = self.rows_from.max(self.computed);
    }

    /// Blocks that all known tokens take beyond those that the sequence has.
    pub(crate) fn blocks_missing(&self) -> usize {
        self.tokens.len().div_ceil(KV_BLOCK_SIZE).saturating_sub(self.blocks.len())
    }

    /// Looks up what may follow, up to `most` tokens, unless something is proposed already.
    pub(crate) fn propose(&mut self, most: usize) {
        if self.proposed.is_empty() {
            self.source = Source::Lookup;
            self.proposed = propose(&self.tokens, self.proposable(most));
        }
    }

    /// Takes what a grammar or a draft model proposes.
    pub(crate) fn offer(&mut self, source: Source, mut proposed: Vec<u32>, most: usize) {
        proposed.truncate(self.proposable(most));
        if !proposed.is_empty() {
            (self.source, self.proposed) = (source, proposed);
        }
    }

    /// Tokens that may be proposed of at most `most`: no more than it may still have besides the one
    /// that is sampled after them.
    pub(crate) fn proposable(&self, most: usize) -> usize {
        most.min((self.max_len - self.tokens.len()).saturating_sub(1))
    }

    /// How often what is proposed for it is right.
    pub(crate) fn acceptance(&self) -> Acceptance {
        match self.source {
            Source::Lookup => self.lookup,
            Source::Grammar => self.grammar,
            Source::Draft => self.draft,
        }
    }

    /// How often a draft model is right.
    pub(crate) fn draft_acceptance(&self) -> Acceptance {
        self.draft
    }

    /// Begins with what was learnt of a draft model by others.
    pub(crate) fn expect(&mut self, draft: Acceptance) {
        self.draft = draft;
    }

    /// Whether a draft model is to be asked: the text itself proposes nothing, or is less often
    /// right.
    pub(crate) fn wants_draft(&self) -> bool {
        self.source == Source::Lookup && (self.proposed.is_empty() || self.lookup < self.draft)
    }

    /// See [`SequenceSpec::salt`].
    pub(crate) fn salt(&self) -> u64 {
        self.salt
    }

    /// Tokens that could follow in the blocks that it has.
    pub(crate) fn room(&self) -> usize {
        (self.blocks.len() * KV_BLOCK_SIZE).saturating_sub(self.tokens.len())
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
            None => Parent::Root { salt: self.salt, adapter: self.adapter },
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
