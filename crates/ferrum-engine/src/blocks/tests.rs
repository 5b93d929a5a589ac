//! Blocks change hands, keep their contents, and lose them in the right order.

use ferrum_models::KV_BLOCK_SIZE;

use super::*;

fn tokens(fill: u32) -> [u32; KV_BLOCK_SIZE] {
    [fill; KV_BLOCK_SIZE]
}

fn root(salt: u64) -> Parent {
    Parent::Root { salt, adapter: 0 }
}

/// Takes and publishes a chain of blocks whose tokens are `fills`.
fn chain(pool: &mut BlockPool, salt: u64, fills: &[u32]) -> Vec<BlockId> {
    let mut parent = root(salt);
    let mut blocks = Vec::new();
    for &fill in fills {
        let block = pool.allocate(1).expect("a block")[0];
        blocks.push(pool.publish(block, parent, &tokens(fill)));
        parent = Parent::Block(blocks[blocks.len() - 1]);
    }
    blocks
}

fn release(pool: &mut BlockPool, blocks: &[BlockId]) {
    blocks.iter().rev().for_each(|&block| pool.release(block));
}

#[test]
fn gives_all_or_nothing() {
    let mut pool = BlockPool::new(3, true);
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
    let mut pool = BlockPool::new(2, true);
    let block = pool.allocate(1).unwrap()[0];
    pool.hold(block);
    pool.check_integrity([block, block]);
    pool.release(block);
    assert_eq!(pool.free(), 1);
    pool.check_integrity([block]);
    pool.release(block);
    assert_eq!((pool.free(), pool.cached()), (2, 0));
    pool.check_integrity([]);
}

#[test]
fn a_content_is_found_by_all_that_came_before_it() {
    let mut pool = BlockPool::new(8, true);
    let blocks = chain(&mut pool, 1, &[5, 6]);
    pool.check_integrity(blocks.clone());
    let find = |parent, fill| pool.find(parent, &tokens(fill));
    assert_eq!(find(root(1), 5), Some(blocks[0]));
    assert_eq!(find(root(2), 5), None, "another salt");
    assert_eq!(find(Parent::Root { salt: 1, adapter: 1 }, 5), None, "another adapter");
    assert_eq!(find(root(1), 6), None, "6 came after 5");
    assert_eq!(find(Parent::Block(blocks[0]), 6), Some(blocks[1]));
    assert_eq!(find(Parent::Block(blocks[1]), 6), None);
    assert_eq!(pool.find(root(1), &[5; 31]), None, "not a full block");
}

#[test]
fn a_content_outlives_its_holders_until_the_room_is_needed() {
    let mut pool = BlockPool::new(4, true);
    let blocks = chain(&mut pool, 0, &[1, 2, 3]);
    release(&mut pool, &blocks);
    assert_eq!((pool.free(), pool.cached()), (4, 3));
    pool.hold(blocks[0]);
    pool.check_integrity([blocks[0]]);
    assert_eq!((pool.free(), pool.cached()), (3, 2));
    // The empty block goes first, then the one at the end of the chain.
    let taken = pool.allocate(2).unwrap();
    assert_eq!(taken, [3, blocks[2]]);
    assert_eq!(pool.find(Parent::Block(blocks[1]), &tokens(3)), None);
    assert_eq!(pool.find(Parent::Block(blocks[0]), &tokens(2)), Some(blocks[1]));
    pool.check_integrity([taken[0], taken[1], blocks[0]]);
}

#[test]
fn what_was_used_last_stays_longest() {
    let mut pool = BlockPool::new(4, true);
    let [first, second] = [10, 20].map(|fill| chain(&mut pool, 0, &[fill, fill + 1]));
    release(&mut pool, &first);
    release(&mut pool, &second);
    first.iter().for_each(|&block| pool.hold(block));
    release(&mut pool, &first);
    assert_eq!(pool.allocate(3).unwrap(), [second[1], second[0], first[1]]);
    assert_eq!(pool.find(root(0), &tokens(10)), Some(first[0]));
}

#[test]
fn of_two_blocks_with_one_content_one_is_let_go() {
    let mut pool = BlockPool::new(4, true);
    let first = chain(&mut pool, 0, &[1, 2]);
    let second = chain(&mut pool, 0, &[1, 2, 3]);
    assert_eq!(first, second[..2]);
    assert_eq!(pool.free(), 1);
    pool.check_integrity(first.iter().chain(&second).copied());
    release(&mut pool, &first);
    pool.check_integrity(second);
}

#[test]
fn a_pool_that_keeps_nothing_finds_nothing() {
    let mut pool = BlockPool::new(4, false);
    let blocks = chain(&mut pool, 0, &[1, 2]);
    assert_eq!(pool.find(root(0), &tokens(1)), None);
    release(&mut pool, &blocks);
    assert_eq!((pool.free(), pool.cached()), (4, 0));
    pool.check_integrity([]);
}

#[test]
#[should_panic(expected = "released while free")]
fn releasing_twice_is_a_bug() {
    let mut pool = BlockPool::new(2, true);
    let block = pool.allocate(1).unwrap()[0];
    pool.release(block);
    pool.release(block);
}

#[test]
#[should_panic(expected = "shared while empty")]
fn sharing_an_empty_block_is_a_bug() {
    BlockPool::new(1, true).hold(0);
}

#[test]
#[should_panic(expected = "holders counted and holders found")]
fn a_leak_is_found() {
    let mut pool = BlockPool::new(2, true);
    pool.allocate(1).unwrap();
    pool.check_integrity([]);
}

#[test]
#[should_panic(expected = "may outlive")]
fn letting_go_of_a_parent_first_is_found() {
    let mut pool = BlockPool::new(2, true);
    let blocks = chain(&mut pool, 0, &[1, 2]);
    blocks.iter().for_each(|&block| pool.release(block));
    pool.check_integrity([]);
}
