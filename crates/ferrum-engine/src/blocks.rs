//! The account of the KV cache: which blocks are free, and how many sequences hold each.

/// A block of the KV pool, [`ferrum_models::KV_BLOCK_SIZE`] positions in every layer, in the type
/// that block tables have.
pub type BlockId = i32;

/// Reference-counted blocks with a free list.
///
/// Invariant: a block is in the free list exactly once if nobody holds it, else not at all.
#[derive(Debug, Clone)]
pub struct BlockPool {
    /// Holders of each block.
    holders: Vec<u32>,
    /// Blocks without holders. The last one is given out first: it is the likeliest to be in the
    /// processor's cache.
    free: Vec<BlockId>,
}

impl BlockPool {
    /// A pool of `blocks` free blocks, at most `i32::MAX` as [`BlockId`] can name.
    pub fn new(blocks: usize) -> Self {
        let last = BlockId::try_from(blocks).expect("a pool of at most i32::MAX blocks");
        BlockPool { holders: vec![0; blocks], free: (0..last).rev().collect() }
    }

    /// Blocks in the pool, free or not.
    pub fn capacity(&self) -> usize {
        self.holders.len()
    }

    /// Blocks that nobody holds.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Takes `count` blocks, each with one holder, or none at all if there are not enough.
    pub fn allocate(&mut self, count: usize) -> Option<Vec<BlockId>> {
        let left = self.free.len().checked_sub(count)?;
        let mut blocks = self.free.split_off(left);
        blocks.reverse();
        for &block in &blocks {
            let holders = &mut self.holders[block as usize];
            assert_eq!(*holders, 0, "block {block} is both free and held");
            *holders = 1;
        }
        Some(blocks)
    }

    /// Adds a holder to a block that has one already.
    ///
    /// # Panics
    /// If nobody holds the block: its content is not defined.
    pub fn share(&mut self, block: BlockId) {
        let holders = &mut self.holders[block as usize];
        assert!(*holders > 0, "block {block} is shared while free");
        *holders += 1;
    }

    /// Drops one holder of a block; with the last one the block is free.
    ///
    /// # Panics
    /// If nobody holds the block.
    pub fn release(&mut self, block: BlockId) {
        let holders = &mut self.holders[block as usize];
        assert!(*holders > 0, "block {block} is released while free");
        *holders -= 1;
        if *holders == 0 {
            self.free.push(block);
        }
    }

    /// Holds the free list against the counts, and the counts against `held`, which lists every
    /// holding of every sequence.
    ///
    /// # Panics
    /// If a block leaked, is free twice, or is both free and held.
    pub fn check_integrity(&self, held: impl IntoIterator<Item = BlockId>) {
        let mut expected = vec![0; self.holders.len()];
        for block in held {
            expected[block as usize] += 1;
        }
        assert_eq!(self.holders, expected, "holders counted and holders found");
        let mut free = vec![false; self.holders.len()];
        for &block in &self.free {
            assert!(!free[block as usize], "block {block} is free twice");
            assert_eq!(self.holders[block as usize], 0, "block {block} is free and held");
            free[block as usize] = true;
        }
        let unheld = self.holders.iter().filter(|&&holders| holders == 0).count();
        assert_eq!(self.free.len(), unheld, "blocks without holder that are not free");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_all_or_nothing() {
        let mut pool = BlockPool::new(3);
        assert_eq!(pool.allocate(4), None);
        assert_eq!(pool.free(), 3);
        assert_eq!(pool.allocate(0), Some(vec![]));
        assert_eq!(pool.allocate(2), Some(vec![0, 1]));
        assert_eq!(pool.allocate(2), None);
        assert_eq!((pool.free(), pool.capacity()), (1, 3));
        pool.check_integrity([0, 1]);
    }

    #[test]
    fn a_shared_block_is_free_after_its_last_holder() {
        let mut pool = BlockPool::new(2);
        let block = pool.allocate(1).unwrap()[0];
        pool.share(block);
        pool.check_integrity([block, block]);
        pool.release(block);
        assert_eq!(pool.free(), 1);
        pool.check_integrity([block]);
        pool.release(block);
        assert_eq!(pool.free(), 2);
        pool.check_integrity([]);
    }

    #[test]
    #[should_panic(expected = "released while free")]
    fn releasing_twice_is_a_bug() {
        let mut pool = BlockPool::new(2);
        let block = pool.allocate(1).unwrap()[0];
        pool.release(block);
        pool.release(block);
    }

    #[test]
    #[should_panic(expected = "shared while free")]
    fn sharing_a_free_block_is_a_bug() {
        BlockPool::new(1).share(0);
    }

    #[test]
    #[should_panic(expected = "holders counted and holders found")]
    fn a_leak_is_found() {
        let mut pool = BlockPool::new(2);
        pool.allocate(1).unwrap();
        pool.check_integrity([]);
    }
}
