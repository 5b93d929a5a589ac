//! Ranks that fail, of stand-ins that add up one number a step.

use std::sync::mpsc;
use std::time::Duration;

use ferrum_kernels::cpu::{Cpu, CpuConfig};
use ferrum_kernels::{Backend, Communicator, DType, KernelError, StepCapacity, StepInput};

use super::RankedRunner;
use crate::runner::{Runner, RunnerLimits};

const RANKS: usize = 3;
/// Parts of 2, 2 and 3 tokens.
const VOCAB: usize = 7;

const LIMITS: RunnerLimits = RunnerLimits {
    vocab: VOCAB,
    context: 64,
    kv_blocks: 4,
    capacity: StepCapacity { tokens: 8, seqs: 2, blocks_per_seq: 2, samples: 2 },
};

/// What happens on a rank at its third step.
#[derive(Clone, Copy)]
enum Fate {
    Lives,
    Fails,
    Panics,
}

type Place = <Cpu as Backend>::Communicator;

struct Stand {
    cpu: Cpu,
    place: Place,
    fate: Fate,
    steps: usize,
    logits: Vec<f32>,
}

impl Runner for Stand {
    fn limits(&self) -> &RunnerLimits {
        &LIMITS
    }

    /// Each row has the sum over all ranks of their numbers, then the rank's own, and one more.
    fn step(&mut self, step: &StepInput) -> Result<&[f32], KernelError> {
        self.steps += 1;
        match self.fate {
            Fate::Fails if self.steps == 3 => return Err(KernelError::shape("test", "no luck")),
            Fate::Panics if self.steps == 3 => panic!("a slip"),
            _ => {}
        }
        let (rank, mut stream) = (self.place.rank(), self.cpu.stream()?);
        let mut x = self.cpu.alloc(DType::F32, 1)?;
        self.cpu.upload_f32(&mut stream, &[rank as f32 + 1.0], &mut x)?;
        self.cpu.all_reduce(&mut stream, &mut self.place, &mut x, 1)?;
        let mut sum = [0.0];
        self.cpu.download_f32(&mut stream, &x, &mut sum)?;
        let own = rank as f32;
        let row: &[f32] = if rank == 2 { &[sum[0], own, own, 99.0] } else { &[sum[0], own, 99.0] };
        self.logits = row.repeat(step.sample_rows.len());
        Ok(&self.logits)
    }
}

fn ranked(fate: Fate) -> RankedRunner {
    let config = CpuConfig { threads: 1, ..CpuConfig::default() };
    let cpu = Cpu::new(config).expect("a processor");
    let places = Cpu::communicators(&[&cpu; RANKS]).expect("a world");
    let stand = |place: Place| {
        let fate = if place.rank() == 1 { fate } else { Fate::Lives };
        Stand { cpu, place, fate, steps: 0, logits: Vec::new() }
    };
    RankedRunner::start(places.into_iter().map(stand).collect(), LIMITS).expect("threads")
}

fn step() -> StepInput {
    StepInput {
        tokens: vec![1, 2],
        positions: vec![0, 1],
        query_starts: vec![0, 2],
        kv_lens: vec![2],
        block_tables: vec![0],
        blocks_per_seq: 1,
        sample_rows: vec![1, 0],
        adapters: Vec::new(),
    }
}

/// Does the work on another thread: false if it takes longer than any of it may.
fn ends(work: impl FnOnce() + Send + 'static) -> bool {
    let (done, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        work();
        let _ = done.send(());
    });
    let ended = ended.recv_timeout(Duration::from_secs(30)).is_ok();
    if ended {
        thread.join().expect("no panic");
    }
    ended
}

#[test]
fn logits_are_put_side_by_side() {
    let mut runner = ranked(Fate::Lives);
    for _ in 0..5 {
        let row = [6.0, 0.0, 6.0, 1.0, 6.0, 2.0, 2.0];
        assert_eq!(runner.step(&step()).expect("logits"), row.repeat(2));
    }
}

fn a_rank_ends(fate: Fate, words: &'static str) {
    assert!(ends(move || {
        let mut runner = ranked(fate);
        assert!(runner.step(&step()).is_ok() && runner.step(&step()).is_ok());
        assert_eq!(runner.failure(), None);
        let error = runner.step(&step()).expect_err("rank 1 has failed");
        assert!(runner.failure().is_some_and(|why| why.contains(words)));
        assert!(matches!(error, KernelError::Rank { rank: 1, .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(runner.ranks.iter().all(|rank| rank.thread.is_none()), "all have ended");
        let again = runner.step(&step()).expect_err("there is no rank left").to_string();
        assert!(again.contains(words) && again.contains("loaded again"), "{again}");
    }));
}

#[test]
fn a_rank_that_fails_is_an_error_of_the_step() {
    a_rank_ends(Fate::Fails, "no luck");
}

#[test]
fn a_rank_that_panics_is_an_error_of_the_step() {
    a_rank_ends(Fate::Panics, "a slip");
}
