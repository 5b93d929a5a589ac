//! The policy, step by step. Answers as a whole are tested in `tests/`.

use ferrum_models::StepCapacity;

use super::*;

/// At most 4 sequences and 100 tokens a step, of up to 10 blocks each.
fn scheduler(kv_blocks: usize) -> Scheduler {
    let capacity = StepCapacity { tokens: 100, seqs: 4, blocks_per_seq: 10, samples: 4 };
    let limits = RunnerLimits { vocab: 1000, context: 320, kv_blocks, capacity };
    Scheduler::new(&limits, &SchedulerConfig::default()).expect("usable limits")
}

fn add(scheduler: &mut Scheduler, id: u64, prompt: usize, max_tokens: usize) {
    let spec = SequenceSpec { prompt: vec![id as u32; prompt], max_tokens, ..Default::default() };
    scheduler.add(RequestId(id), spec).expect("it fits");
}

/// `(id, start, len, has logits)` of each chunk of the next plan, which is run.
fn step(scheduler: &mut Scheduler) -> Vec<(u64, usize, usize, bool)> {
    let Some(plan) = scheduler.schedule() else { return Vec::new() };
    let next = vec![Next::Tokens(vec![7]); plan.judged().count()];
    scheduler.commit(&plan, next);
    scheduler.check_integrity();
    plan.chunks.iter().map(|c| (c.id.0, c.start, c.len, c.rows > 0)).collect()
}

/// The same, where each request ends with its first token.
fn step_and_end(scheduler: &mut Scheduler) -> Vec<(u64, usize, usize, bool)> {
    let Some(plan) = scheduler.schedule() else { return Vec::new() };
    scheduler.commit(&plan, vec![Next::End; plan.judged().count()]);
    scheduler.check_integrity();
    plan.chunks.iter().map(|c| (c.id.0, c.start, c.len, c.rows > 0)).collect()
}

fn ids(scheduler: &Scheduler) -> (Vec<u64>, Vec<u64>) {
    let running = scheduler.running.iter().map(|s| s.id.0).collect();
    (running, scheduler.waiting.iter().map(|s| s.id.0).collect())
}

#[test]
fn decodes_come_first_and_prefills_share_what_is_left() {
    let mut s = scheduler(40);
    add(&mut s, 0, 5, 50);
    assert_eq!(step(&mut s), [(0, 0, 5, true)]);
    add(&mut s, 1, 150, 50);
    add(&mut s, 2, 60, 50);
    // Half of the step is the oldest's; the shortest gets the rest, then whoever needs it.
    assert_eq!(step(&mut s), [(0, 5, 1, true), (1, 0, 50, false), (2, 0, 49, false)]);
    assert_eq!(step(&mut s), [(0, 6, 1, true), (1, 50, 88, false), (2, 49, 11, true)]);
    assert_eq!(step(&mut s), [(0, 7, 1, true), (2, 60, 1, true), (1, 138, 12, true)]);
    assert_eq!(step(&mut s), [(0, 8, 1, true), (1, 150, 1, true), (2, 61, 1, true)]);
}

/// Short prompts get past a long one, which still gets half of every step.
#[test]
fn short_prompts_do_not_wait_for_a_long_one() {
    let mut s = scheduler(40);
    add(&mut s, 0, 310, 1);
    for id in 1..7 {
        add(&mut s, id, 40, 1);
        let chunks = step_and_end(&mut s);
        let end = id as usize * 60;
        let len = if end <= 310 { 60 } else { 310 - (end - 60) };
        assert_eq!(chunks, [(0, end - 60, len, end >= 310), (id, 0, 40, true)]);
    }
    assert!(s.is_idle());
}

/// Prompts that begin alike: the first reads what they share, then each its own.
#[test]
fn a_shared_prefix_is_read_once() {
    let mut s = scheduler(40);
    let prompt = |own: u32, len: usize| [vec![9; 70], vec![own; len - 70]].concat();
    let add = |s: &mut Scheduler, id: u64, len: usize, salt: u64| {
        let prompt = prompt(id as u32, len);
        let spec = SequenceSpec { prompt, max_tokens: 1, salt, ..Default::default() };
        s.add(RequestId(id), spec).expect("it fits");
    };
    add(&mut s, 0, 120, 0);
    add(&mut s, 1, 80, 0);
    add(&mut s, 2, 80, 7);
    // 1 waits for 0, which is in a hurry for its sake; 2 has another salt.
    assert_eq!(step_and_end(&mut s), [(0, 0, 100, false)]);
    assert_eq!(s.cached_tokens(RequestId(1)), Some(0));
    assert_eq!(step_and_end(&mut s), [(0, 100, 20, true), (1, 64, 16, true), (2, 0, 64, false)]);
    add(&mut s, 3, 71, 7);
    assert_eq!(step_and_end(&mut s), [(2, 64, 16, true), (3, 64, 7, true)]);
    // What is left behind serves those that come later, but never for their last token.
    add(&mut s, 4, 96, 0);
    let spec = SequenceSpec { prompt: vec![9; 64], max_tokens: 1, ..Default::default() };
    s.add(RequestId(5), spec).expect("it fits");
    assert_eq!(step_and_end(&mut s), [(4, 64, 32, true), (5, 32, 32, true)]);
}

/// Requests that branch from one prompt hold its full blocks together.
#[test]
fn branches_share_blocks() {
    let mut s = scheduler(12);
    for id in 0..4 {
        let spec = SequenceSpec { prompt: vec![3; 100], max_tokens: 40, ..Default::default() };
        s.add(RequestId(id), spec).expect("it fits");
    }
    // With room for two of four alone, all run.
    for _ in 0..4 {
        step(&mut s);
    }
    assert_eq!(ids(&s), (vec![0, 1, 2, 3], vec![]));
    let shared = &s.running[0].blocks[..3];
    assert!(s.running.iter().all(|sequence| sequence.blocks[..3] == *shared));
    assert_eq!(s.pool().free(), 12 - 3 - 4);
    for _ in 0..20 {
        step(&mut s);
    }
    assert_eq!(s.preemptions(), 0);
}

#[test]
fn no_more_run_than_a_step_can_decode() {
    let mut s = scheduler(40);
    (0..6).for_each(|id| add(&mut s, id, 10, 50));
    assert_eq!(step(&mut s).len(), 4);
    assert_eq!(ids(&s), (vec![0, 1, 2, 3], vec![4, 5]));
    assert!(s.remove(RequestId(1)));
    step(&mut s);
    assert_eq!(ids(&s), (vec![0, 2, 3, 4], vec![5]));
}

/// A short request does not overtake a long one that waits for room.
#[test]
fn requests_start_in_order_of_arrival() {
    let mut s = scheduler(10);
    add(&mut s, 0, 100, 60);
    add(&mut s, 1, 250, 60);
    add(&mut s, 2, 1, 1);
    step(&mut s);
    assert_eq!(ids(&s), (vec![0], vec![1, 2]));
    s.remove(RequestId(0));
    step(&mut s);
    assert_eq!(ids(&s), (vec![1, 2], vec![]));
}

/// A start leaves a block for each sequence that runs.
#[test]
fn a_start_is_not_undone_at_once() {
    let mut s = scheduler(4);
    add(&mut s, 0, 32, 60);
    add(&mut s, 1, 96, 20);
    step(&mut s);
    assert_eq!(ids(&s), (vec![0], vec![1]), "three blocks are free, but one is spoken for");
}

#[test]
fn the_youngest_makes_room_and_comes_back_first() {
    let mut s = scheduler(5);
    add(&mut s, 0, 62, 60);
    add(&mut s, 1, 30, 60);
    add(&mut s, 2, 3, 60);
    // To start 2 would leave one free block for two that run.
    assert_eq!(step(&mut s), [(0, 0, 62, true), (1, 0, 30, true)]);
    add(&mut s, 3, 3, 5);
    for _ in 0..34 {
        step(&mut s);
    }
    let lengths = |s: &Scheduler| [0, 1].map(|id| s.tokens(RequestId(id)).map(<[u32]>::len));
    assert_eq!(lengths(&s), [Some(97), Some(65)]);
    assert_eq!((ids(&s), s.pool().free()), ((vec![0, 1], vec![2, 3]), 0));
    // Both need a block for the next step.
    assert_eq!(step(&mut s), [(0, 96, 1, true)]);
    assert_eq!((ids(&s), s.pool().free()), ((vec![0], vec![1, 2, 3]), 1));
    s.remove(RequestId(0));
    // One of the two blocks of 1 went to 0; the tokens of the other, sampled ones too, are not
    // computed again.
    assert_eq!(step(&mut s), [(1, 32, 33, true), (2, 0, 3, true)]);
}

#[test]
fn the_sequence_that_needs_room_may_be_the_youngest_itself() {
    let mut s = scheduler(4);
    add(&mut s, 0, 31, 90);
    add(&mut s, 1, 32, 60);
    step(&mut s);
    step(&mut s);
    assert_eq!((ids(&s), s.pool().free()), ((vec![0, 1], vec![]), 1));
    step(&mut s);
    assert_eq!((ids(&s), s.pool().free()), ((vec![0, 1], vec![]), 0));
    while s.running.len() == 2 {
        step(&mut s);
    }
    assert_eq!(ids(&s), (vec![0], vec![1]));
}

#[test]
fn the_arrays_of_a_step() {
    let mut s = scheduler(12);
    add(&mut s, 3, 33, 5);
    step(&mut s);
    add(&mut s, 4, 2, 5);
    add(&mut s, 5, 120, 5);
    let plan = s.schedule().expect("work");
    let step = &plan.step;
    let mut tokens = vec![7, 4, 4];
    tokens.resize(100, 5);
    assert_eq!(step.tokens, tokens);
    assert_eq!(step.positions, [33, 0, 1].into_iter().chain(0..97).collect::<Vec<_>>());
    assert_eq!(step.query_starts, [0, 1, 3, 100]);
    assert_eq!(step.kv_lens, [34, 2, 97]);
    assert_eq!(step.blocks_per_seq, 4);
    assert_eq!(step.block_tables, [0, 1, 0, 0, 2, 0, 0, 0, 3, 4, 5, 6]);
    assert_eq!(step.sample_rows, [0, 2]);
    assert_eq!(plan.judged().map(|chunk| chunk.id.0).collect::<Vec<_>>(), [3, 4]);
}

/// A step that failed is planned again, token for token.
#[test]
fn a_plan_that_is_not_committed_comes_again() {
    let mut s = scheduler(12);
    add(&mut s, 0, 31, 5);
    step(&mut s);
    add(&mut s, 1, 150, 5);
    let first = s.schedule().expect("work");
    s.check_integrity();
    assert_eq!(s.schedule(), Some(first));
}

#[test]
fn an_end_frees_and_an_empty_scheduler_is_idle() {
    let mut s = scheduler(12);
    assert_eq!((s.schedule(), s.is_idle()), (None, true));
    add(&mut s, 0, 40, 5);
    assert!(!s.is_idle());
    let plan = s.schedule().expect("work");
    assert_eq!((s.queue(), s.pool().free()), ((0, 1), 10));
    s.commit(&plan, vec![Next::End]);
    s.check_integrity();
    assert!(s.is_idle() && s.pool().free() == 12);
    assert!(!s.remove(RequestId(0)));
}

#[test]
#[should_panic(expected = "not the last plan")]
fn committing_twice_is_a_bug() {
    let mut s = scheduler(12);
    add(&mut s, 0, 150, 5);
    let plan = s.schedule().expect("work");
    s.commit(&plan, vec![]);
    s.commit(&plan, vec![]);
}
