//! The account of the KV cache: which blocks are free, how many sequences hold each, and which
//! tokens each was computed from.

mod contents;

pub use contents::Parent;

use std::collections::BTreeMap;

use contents::Contents;

/// A block of the KV pool, [`ferrum_models::KV_BLOCK_SIZE`] positions in every layer, in the type
/// that block tables have.
pub type BlockId = i32;

/// Reference-counted blocks that keep their content until the room is needed.
///
/// A block is in one of three states: *held* by sequences; *cached*: held by nobody, but with a
/// content that can be found; or *empty*. A block is given out from the empty ones first, then
/// from the cached ones, the one that was let go longest ago first.
///
/// Invariants: a published block's parent is published, and is held wherever the block is; and a
/// cached block was let go before its parent was. So no block loses its content before those that
/// build on it.
#[derive(Debug, Clone)]
pub struct BlockPool {
    /// Holders of each block.
    holders: Vec<u32>,
    /// Empty blocks. The last one is given out first: it is the likeliest to be in the processor's
    /// cache.
    empty: Vec<BlockId>,
    /// Cached blocks by the time they were let go.
    cached: BTreeMap<u64, BlockId>,
    /// When each block was let go last.
    let_go: Vec<u64>,
    /// Counts releases.
    time: u64,
    contents: Contents,
    /// Whether contents are kept at all.
    keeps: bool,
}

impl BlockPool {
    /// A pool of `blocks` free blocks, at most `i32::MAX` as [`BlockId`] can name. It `keeps`
    /// contents of blocks that nobody holds, or forgets them.
    pub fn new(blocks: usize, keeps: bool) -> Self {
        let last = BlockId::try_from(blocks).expect("a pool of at most i32::MAX blocks");
        BlockPool {
            holders: vec![0; blocks],
            empty: (0..last).rev().collect(),
            cached: BTreeMap::new(),
            let_go: vec![0; blocks],
            time: 0,
            contents: Contents::new(blocks),
            keeps,
        }
    }

    /// Blocks in the pool, free or not.
    pub fn capacity(&self) -> usize {
        self.holders.len()
    }

    /// Blocks that nobody holds, cached ones included.
    pub fn free(&self) -> usize {
        self.empty.len() + self.cached.len()
    }

    /// Blocks that nobody holds and whose content can be found.
    pub fn cached(&self) -> usize {
        self.cached.len()
    }

    /// Whether contents can be found at all.
    pub fn keeps_contents(&self) -> bool {
        self.keeps
    }

    /// Whether anybody holds the block.
    pub fn is_held(&self, block: BlockId) -> bool {
        self.holders[block as usize] > 0
    }

    /// Takes `count` blocks, each with one holder and without content, or none at all if there are
    /// not enough.
    pub fn allocate(&mut self, count: usize) -> Option<Vec<BlockId>> {
        if count > self.free() {
            return None;
        }
        let mut blocks = self.empty.split_off(self.empty.len().saturating_sub(count));
        blocks.reverse();
        while blocks.len() < count {
            let (_, block) = self.cached.pop_first()?;
            self.contents.forget(block);
            blocks.push(block);
        }
        for &block in &blocks {
            let holders = &mut self.holders[block as usize];
            assert_eq!(*holders, 0, "block {block} is both free and held");
            *holders = 1;
        }
        Some(blocks)
    }

    /// Adds a holder to a block that is held or cached.
    ///
    /// # Panics
    /// If the block is empty: its content is not defined.
    pub fn hold(&mut self, block: BlockId) {
        let holders = &mut self.holders[block as usize];
        if *holders == 0 {
            let found = self.cached.remove(&self.let_go[block as usize]);
            assert_eq!(found, Some(block), "block {block} is shared while empty");
        }
        *holders += 1;
    }

    /// Drops one holder of a block; with the last one the block is free. Blocks that build on this
    /// one are to be released before it.
    ///
    /// # Panics
    /// If nobody holds the block.
    pub fn release(&mut self, block: BlockId) {
        let holders = &mut self.holders[block as usize];
        assert!(*holders > 0, "block {block} is released while free");
        *holders -= 1;
        if *holders > 0 {
            return;
        }
        if self.contents.of(block).is_some() {
            self.time += 1;
            self.let_go[block as usize] = self.time;
            self.cached.insert(self.time, block);
        } else {
            self.empty.push(block);
        }
    }

    /// The block that holds `tokens` after `parent`, if there is one. Finds nothing unless there
    /// are [`ferrum_models::KV_BLOCK_SIZE`] tokens.
    pub fn find(&self, parent: Parent, tokens: &[u32]) -> Option<BlockId> {
        self.contents.find(parent, tokens)
    }

    /// Says what a full block that the caller holds was computed from, so that it can be found.
    /// Returns the block to use from now on: if there is one with this content already, the caller
    /// holds that one and has let go of its own.
    pub fn publish(&mut self, block: BlockId, parent: Parent, tokens: &[u32]) -> BlockId {
        if !self.keeps {
            return block;
        }
        match self.find(parent, tokens) {
            Some(known) if known != block => {
                self.hold(known);
                self.release(block);
                known
            }
            _ => {
                self.contents.publish(block, parent, tokens);
                block
            }
        }
    }

    /// Holds the state against the invariants, and the counts against `held`, which lists every
    /// holding of every sequence.
    ///
    /// # Panics
    /// If a block leaked, is free twice, is both free and held, or lost what it builds on.
    pub fn check_integrity(&self, held: impl IntoIterator<Item = BlockId>) {
        let mut expected = vec![0; self.holders.len()];
        for block in held {
            expected[block as usize] += 1;
        }
        assert_eq!(self.holders, expected, "holders counted and holders found");
        let mut free = vec![false; self.holders.len()];
        for &block in self.empty.iter().chain(self.cached.values()) {
            assert!(!free[block as usize], "block {block} is free twice");
            assert_eq!(self.holders[block as usize], 0, "block {block} is free and held");
            free[block as usize] = true;
        }
        let unheld = self.holders.iter().filter(|&&holders| holders == 0).count();
        assert_eq!(self.free(), unheld, "blocks without holder that are not free");
        for &block in &self.empty {
            assert_eq!(self.contents.of(block), None, "block {block} is empty with a content");
        }
        for (&time, &block) in &self.cached {
            assert_eq!(
                self.let_go[block as usize], time,
                "block {block} is cached at a wrong time"
            );
            assert!(self.contents.of(block).is_some(), "block {block} is cached without content");
        }
        self.contents.check_integrity();
        for (block, parent) in self.contents.parents() {
            let [child, parent] = [block as usize, parent as usize];
            let sound = match (self.holders[child], self.holders[parent]) {
                (0, 0) => self.let_go[child] < self.let_go[parent],
                (_, held) => held > 0,
            };
            assert!(sound, "block {child} may outlive {parent}, on which it builds");
        }
    }
}

#[cfg(test)]
mod tests;
