//! [`StepInput::validate`] accepts what a scheduler makes and refuses everything else, without a
//! panic.

use ferrum_kernels::reference::Reference;
use ferrum_kernels::{Backend, KV_BLOCK_SIZE, StepBatch, StepCapacity, StepInput};

const CAP: StepCapacity = StepCapacity { tokens: 64, seqs: 4, blocks_per_seq: 3, samples: 4 };
const BLOCKS: usize = 8;
const VOCAB: usize = 100;

/// A prefill chunk from position 30 to 34, over the edge of a block, and a decode at position 5.
fn good() -> StepInput {
    StepInput {
        tokens: vec![1, 2, 3, 4, 99],
        positions: vec![30, 31, 32, 33, 5],
        query_starts: vec![0, 4, 5],
        kv_lens: vec![34, 6],
        block_tables: vec![7, 2, 0, 0, 0, 0],
        blocks_per_seq: 3,
        sample_rows: vec![3, 4],
        adapters: Vec::new(),
    }
}

fn check(step: &StepInput) -> Result<(), String> {
    step.validate(&CAP, BLOCKS, VOCAB).map_err(|e| e.to_string())
}

#[test]
fn good_steps_are_accepted() {
    check(&good()).unwrap();
    check(&StepInput { adapters: vec![0, 1], ..good() }).unwrap();
    let one = StepInput {
        tokens: vec![0],
        positions: vec![0],
        query_starts: vec![0, 1],
        kv_lens: vec![1],
        block_tables: vec![7],
        blocks_per_seq: 1,
        sample_rows: vec![],
        adapters: Vec::new(),
    };
    check(&one).unwrap();
    // As large as it may be: two sequences of 32 tokens, in the last block of three.
    let full = StepInput {
        tokens: vec![99; 64],
        positions: (64..96).chain(64..96).collect(),
        query_starts: vec![0, 32, 64],
        kv_lens: vec![96, 96],
        // A prefix may be shared; what is written may not.
        block_tables: vec![0, 1, 2, 0, 1, 3],
        blocks_per_seq: 3,
        sample_rows: vec![31, 63, 0, 0],
        adapters: Vec::new(),
    };
    check(&full).unwrap();
}

/// A name and what it does to a good step.
type Fault = (&'static str, fn(&mut StepInput));

const FAULTS: &[Fault] = &[
    ("no tokens", |s| *s = StepInput::default()),
    ("no tokens but sequences", |s| s.tokens.clear()),
    ("token below zero", |s| s.tokens[1] = -1),
    ("token of the smallest integer", |s| s.tokens[1] = i32::MIN),
    ("token past the vocabulary", |s| s.tokens[4] = VOCAB as i32),
    ("too many tokens", |s| s.tokens.resize(65, 0)),
    ("one token more than positions", |s| s.tokens.push(0)),
    ("a position missing", |s| {
        s.positions.pop();
    }),
    ("position not the next", |s| s.positions[2] = 31),
    ("position off by one for all", |s| s.positions.iter_mut().for_each(|p| *p -= 1)),
    ("position below zero", |s| s.positions[4] = -1),
    ("position huge", |s| s.positions[4] = i32::MAX),
    ("no query_starts", |s| s.query_starts.clear()),
    ("query_starts too few", |s| {
        s.query_starts.pop();
    }),
    ("query_starts too many", |s| s.query_starts.push(5)),
    ("query_starts not from zero", |s| s.query_starts[0] = 1),
    ("query_starts below zero", |s| s.query_starts[0] = -1),
    ("query_starts short of the tokens", |s| s.query_starts[2] = 4),
    ("query_starts past the tokens", |s| s.query_starts[2] = 6),
    ("query_starts huge in the middle", |s| s.query_starts[1] = i32::MAX),
    ("query_starts past the tokens in the middle", |s| {
        *s = StepInput {
            tokens: vec![0; 5],
            positions: vec![0, 1, 2, 3, 4],
            query_starts: vec![0, 90, 5],
            kv_lens: vec![90, 6],
            ..good()
        }
    }),
    ("query_starts smallest integer in the middle", |s| s.query_starts[1] = i32::MIN),
    ("query_starts falling", |s| {
        *s = StepInput { query_starts: vec![0, 4, 3, 5], kv_lens: vec![34, 6, 9], ..good() };
        s.block_tables.resize(9, 0);
    }),
    ("a sequence without tokens", |s| s.query_starts[1] = 5),
    ("kv_len below its tokens", |s| s.kv_lens[0] = 3),
    ("kv_len zero", |s| s.kv_lens[1] = 0),
    ("kv_len below zero", |s| s.kv_lens[1] = -6),
    ("kv_len smallest integer", |s| s.kv_lens[1] = i32::MIN),
    ("kv_len largest integer", |s| s.kv_lens[1] = i32::MAX),
    ("kv_len past its blocks", |s| {
        s.kv_lens[1] = 97;
        s.positions[4] = 96;
    }),
    ("too many sequences", |s| {
        *s = StepInput {
            tokens: vec![0; 5],
            positions: vec![0; 5],
            query_starts: (0..6).collect(),
            kv_lens: vec![1; 5],
            block_tables: vec![0, 1, 2, 3, 4],
            blocks_per_seq: 1,
            sample_rows: vec![],
            adapters: Vec::new(),
        }
    }),
    ("adapters of too few sequences", |s| s.adapters = vec![0]),
    ("adapters of too many", |s| s.adapters = vec![0; 3]),
    ("an adapter below zero", |s| s.adapters = vec![0, -1]),
    ("too many blocks a sequence", |s| {
        s.blocks_per_seq = 4;
        s.block_tables.resize(8, 0);
    }),
    ("blocks_per_seq huge", |s| s.blocks_per_seq = usize::MAX),
    ("blocks_per_seq zero", |s| {
        s.blocks_per_seq = 0;
        s.block_tables.clear();
    }),
    ("block tables too short", |s| {
        s.block_tables.pop();
    }),
    ("block tables too long", |s| s.block_tables.push(0)),
    ("block below zero", |s| s.block_tables[0] = -1),
    ("block past the pool", |s| s.block_tables[1] = BLOCKS as i32),
    ("unused block past the pool", |s| s.block_tables[5] = i32::MAX),
    ("row to sample below zero", |s| s.sample_rows[0] = -1),
    ("row to sample past the step", |s| s.sample_rows[0] = 5),
    ("too many rows to sample", |s| s.sample_rows = vec![0; 5]),
    ("two sequences write one slot", |s| {
        s.block_tables[3] = 7;
        s.positions[4] = 30;
        s.kv_lens[1] = 31;
    }),
    ("one sequence writes a slot twice", |s| {
        *s = StepInput {
            tokens: vec![0; 33],
            positions: (0..33).collect(),
            query_starts: vec![0, 33],
            kv_lens: vec![33],
            block_tables: vec![4, 4],
            blocks_per_seq: 2,
            sample_rows: vec![],
            adapters: Vec::new(),
        }
    }),
];

#[test]
fn hostile_steps_are_refused() {
    for (name, fault) in FAULTS {
        let mut step = good();
        fault(&mut step);
        assert_ne!(step, good(), "{name} changes nothing");
        assert!(check(&step).is_err(), "{name} was accepted");
    }
}

#[test]
fn a_pool_too_large_for_slots_is_refused() {
    let mut step = good();
    step.block_tables[0] = i32::MAX;
    assert!(step.validate(&CAP, usize::MAX, VOCAB).is_err());
}

/// Uploading what was never validated may fail, but neither panics nor leaves a batch that
/// operations would believe.
#[test]
fn hostile_steps_can_be_uploaded_without_harm() {
    let backend = Reference::new();
    let mut stream = backend.stream().unwrap();
    let mut batch = StepBatch::new(&backend, &CAP).unwrap();
    for (name, fault) in FAULTS {
        let mut step = good();
        fault(&mut step);
        batch.upload(&backend, &mut stream, &good()).unwrap();
        if batch.upload(&backend, &mut stream, &step).is_err() {
            assert_eq!(batch.shape, Default::default(), "{name}");
        }
    }
}

#[test]
fn slots_follow_the_block_tables() {
    let backend = Reference::new();
    let mut batch = StepBatch::new(&backend, &CAP).unwrap();
    batch.upload(&backend, &mut backend.stream().unwrap(), &good()).unwrap();
    let block = KV_BLOCK_SIZE as i32;
    let want = [7 * block + 30, 7 * block + 31, 2 * block, 2 * block + 1, 5];
    assert_eq!(batch.slots.i32("test", 5).unwrap(), want);
    assert_eq!(batch.shape, good().shape());
}

/// The arrays of a step.
fn arrays(step: &mut StepInput) -> [&mut Vec<i32>; 6] {
    [
        &mut step.tokens,
        &mut step.positions,
        &mut step.query_starts,
        &mut step.kv_lens,
        &mut step.block_tables,
        &mut step.sample_rows,
    ]
}

/// Every way to put a hostile number in one place of an array, or to shorten or lengthen it.
fn spoilt(step: &StepInput) -> Vec<StepInput> {
    let numbers = [i32::MIN, -1, 0, 1, 4, 5, 6, 33, 34, 96, 97, 1 << 27, i32::MAX];
    let mut all = Vec::new();
    for array in 0..6 {
        for place in 0..arrays(&mut step.clone())[array].len() {
            for number in numbers {
                let mut step = step.clone();
                arrays(&mut step)[array][place] = number;
                all.push(step);
            }
        }
        let (mut short, mut long) = (step.clone(), step.clone());
        arrays(&mut short)[array].pop();
        arrays(&mut long)[array].push(0);
        all.extend([short, long]);
    }
    for blocks_per_seq in [0, 1, 2, 4, usize::MAX] {
        all.push(StepInput { blocks_per_seq, ..step.clone() });
    }
    all
}

/// Whatever one or two numbers are replaced: no panic, and what is accepted stays in the pool.
#[test]
fn accepted_steps_write_within_the_pool_and_nothing_twice() {
    let backend = Reference::new();
    let mut stream = backend.stream().unwrap();
    let mut batch = StepBatch::new(&backend, &CAP).unwrap();
    let mut accepted = 0;
    for step in spoilt(&good()).iter().flat_map(spoilt) {
        if check(&step).is_err() {
            continue;
        }
        accepted += 1;
        batch.upload(&backend, &mut stream, &step).unwrap();
        let mut slots = batch.slots.i32("test", step.tokens.len()).unwrap().to_vec();
        assert!(
            slots.iter().all(|&s| (0..(BLOCKS * KV_BLOCK_SIZE) as i32).contains(&s)),
            "{step:?}"
        );
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(slots.len(), step.tokens.len(), "{step:?}");
    }
    assert!(accepted > 100, "{accepted} accepted");
}
