//! Which tokens each block was computed from.

use std::collections::HashMap;

use ferrum_models::KV_BLOCK_SIZE;

use super::BlockId;

/// What a block builds on: the content of a block depends on all tokens before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Parent {
    /// The block is the first of sequences with this salt and adapter.
    Root {
        /// Whose it is.
        salt: u64,
        /// What computed it.
        adapter: u32,
    },
    /// It follows this block.
    Block(BlockId),
}

/// Names a content exactly: a parent block has one content for as long as others build on it, so
/// chains of keys are equal if and only if salt, adapter and all tokens are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    parent: Parent,
    tokens: [u32; KV_BLOCK_SIZE],
}

/// An index of published blocks. Keys are compared as a whole, so that equal hashes do no harm;
/// and the hash is the standard library's keyed one, so that nobody can provoke them.
#[derive(Debug, Clone)]
pub(super) struct Contents {
    by_key: HashMap<Key, BlockId>,
    /// Key of each block that is published.
    keys: Vec<Option<Key>>,
}

impl Contents {
    /// No content for any of `blocks` blocks.
    pub(super) fn new(blocks: usize) -> Self {
        Contents { by_key: HashMap::new(), keys: vec![None; blocks] }
    }

    /// What a block builds on, if it is published.
    pub(super) fn of(&self, block: BlockId) -> Option<Parent> {
        self.keys[block as usize].as_ref().map(|key| key.parent)
    }

    pub(super) fn find(&self, parent: Parent, tokens: &[u32]) -> Option<BlockId> {
        let tokens = tokens.try_into().ok()?;
        self.by_key.get(&Key { parent, tokens }).copied()
    }

    /// Publishes a block with a content that no other has.
    ///
    /// # Panics
    /// If `tokens` do not fill a block.
    pub(super) fn publish(&mut self, block: BlockId, parent: Parent, tokens: &[u32]) {
        let tokens = tokens.try_into().expect("the tokens of a full block");
        let key = Key { parent, tokens };
        self.by_key.insert(key.clone(), block);
        self.keys[block as usize] = Some(key);
    }

    pub(super) fn forget(&mut self, block: BlockId) {
        if let Some(key) = self.keys[block as usize].take() {
            self.by_key.remove(&key);
        }
    }

    /// Published blocks that follow a block, with that block.
    pub(super) fn parents(&self) -> impl Iterator<Item = (BlockId, BlockId)> {
        self.by_key.iter().filter_map(|(key, &block)| match key.parent {
            Parent::Root { .. } => None,
            Parent::Block(parent) => Some((block, parent)),
        })
    }

    pub(super) fn check_integrity(&self) {
        let published = self.keys.iter().flatten().count();
        assert_eq!(self.by_key.len(), published, "contents found and contents kept");
        for (key, &block) in &self.by_key {
            assert_eq!(self.keys[block as usize].as_ref(), Some(key), "the key of block {block}");
        }
        for (block, parent) in self.parents() {
            assert!(self.of(parent).is_some(), "block {block} builds on {parent}, which is empty");
        }
    }
}
