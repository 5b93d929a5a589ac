//! One model on several ranks: a thread each, which compute every step together.
//!
//! Whoever runs steps sees one [`Runner`]. It gives each step to all ranks and puts the logits together,
//! of which each has those of its part of the vocabulary. A rank that fails, or panics, ends: it
//! drops its communicator, so that no other waits for it, and the step is an error. The ranks are
//! then out of step for good, and so is every later step.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use ferrum_kernels::{Backend, KernelError, StepInput};

use crate::checkpoint::Checkpoint;
use crate::decoder::{DecoderOptions, DecoderRunner, DecoderSpec, Share};
use crate::load::ModelError;
use crate::runner::{Runner, RunnerLimits};

/// A step, and memory for the logits.
type Order = (Arc<StepInput>, Vec<f32>);

/// A rank's number and its logits of a step.
type Report = (usize, Result<Vec<f32>, KernelError>);

/// A model that several ranks compute.
pub(crate) struct RankedRunner {
    ranks: Vec<RankThread>,
    /// What the ranks report, in the order in which they do.
    reports: Receiver<Report>,
    limits: RunnerLimits,
    /// `[R, vocab]` of the last step.
    logits: Vec<f32>,
    /// Which rank ended the world, and why.
    failed: Option<(usize, String)>,
}

/// A rank as seen from outside.
struct RankThread {
    /// Tokens whose logits it computes.
    tokens: Range<usize>,
    /// `None` once it is to end.
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    /// Its logits of the last step, or memory for the next one's.
    logits: Vec<f32>,
}

impl RankedRunner {
    /// Loads a share of the model on each of the backends, all at once, and starts their threads.
    pub(crate) fn load<B: Backend>(
        backends: Vec<B>,
        file: &dyn Checkpoint,
        spec: &DecoderSpec,
        options: &DecoderOptions,
    ) -> Result<Self, ModelError> {
        let count = backends.len();
        // A model that cannot be shared out is told before anything is made for it.
        Share { rank: 0, ranks: count }.of_spec(spec)?;
        Ok(Self::start(load_all(backends, file, spec, options)?, options.limits)?)
    }

    /// Starts the threads of all ranks.
    fn start<R: Runner + 'static>(
        runners: Vec<R>,
        limits: RunnerLimits,
    ) -> Result<Self, KernelError> {
        let (to, reports) = channel();
        let (count, logits, failed) = (runners.len(), Vec::new(), None);
        // Built first, so that threads already started are ended if a later one cannot be.
        let ranks = Vec::with_capacity(count);
        let mut ranked = RankedRunner { ranks, reports, limits, logits, failed };
        for (rank, runner) in runners.into_iter().enumerate() {
            let tokens = Share { rank, ranks: count }.of(limits.vocab);
            ranked.ranks.push(RankThread::start((rank, tokens), runner, to.clone())?);
        }
        Ok(ranked)
    }

    /// Runs a step on all ranks and waits for all of them.
    fn run(&mut self, step: &StepInput) -> Result<(), (usize, String)> {
        let step = Arc::new(step.clone());
        let (mut waiting, mut wrong) = (0, None);
        for (number, rank) in self.ranks.iter_mut().enumerate() {
            let order = (step.clone(), std::mem::take(&mut rank.logits));
            match rank.orders.as_ref().is_some_and(|orders| orders.send(order).is_ok()) {
                true => waiting += 1,
                false => wrong = Some((number, "its thread has ended".to_string())),
            }
        }
        for _ in 0..waiting {
            // The first error is the cause of those that follow.
            match self.reports.recv() {
                Ok((rank, Ok(logits))) => self.ranks[rank].logits = logits,
                Ok((rank, Err(error))) => {
                    wrong.get_or_insert_with(|| (rank, error.to_string()));
                }
                Err(_) => return Err(wrong.unwrap_or((0, "all threads have ended".to_string()))),
            }
        }
        wrong.map_or(Ok(()), Err)
    }

    /// Puts the parts of `rows` rows side by side.
    fn gather(&mut self, rows: usize) {
        let vocab = self.limits.vocab;
        self.logits.resize(rows * vocab, 0.0);
        for rank in &self.ranks {
            let width = rank.logits.len() / rows.max(1);
            let parts = rank.logits.chunks_exact(width.max(1));
            for (row, part) in self.logits.chunks_exact_mut(vocab).zip(parts) {
                let own = &mut row[rank.tokens.clone()];
                own.copy_from_slice(&part[..own.len()]);
            }
        }
    }

    /// Ends all threads: first all are told, as one may wait for another to let go.
    fn end(&mut self) {
        for rank in &mut self.ranks {
            rank.orders = None;
        }
        for rank in &mut self.ranks {
            // It catches every panic of its work, so there is none to pass on.
            let _ = rank.thread.take().map(JoinHandle::join);
        }
    }
}

impl Runner for RankedRunner {
    fn limits(&self) -> &RunnerLimits {
        &self.limits
    }

    fn failure(&self) -> Option<String> {
        self.failed.as_ref().map(|(rank, why)| format!("rank {rank}: {why}"))
    }

    fn step(&mut self, step: &StepInput) -> Result<&[f32], KernelError> {
        // What no rank would take is told before any begins, so that they stay in step.
        self.limits.check(step, self.adapters())?;
        if let Some((rank, why)) = &self.failed {
            let what = format!("{why}; the model has to be loaded again");
            return Err(KernelError::Rank { rank: *rank, what });
        }
        if let Err((rank, what)) = self.run(step) {
            self.failed = Some((rank, what.clone()));
            self.end();
            return Err(KernelError::Rank { rank, what });
        }
        self.gather(step.sample_rows.len());
        Ok(&self.logits)
    }
}

impl Drop for RankedRunner {
    fn drop(&mut self) {
        self.end();
    }
}

impl RankThread {
    fn start<R: Runner + 'static>(
        (rank, tokens): (usize, Range<usize>),
        runner: R,
        reports: Sender<Report>,
    ) -> Result<Self, KernelError> {
        let (orders, received) = channel();
        let thread = thread::Builder::new()
            .name(format!("ferrum-rank-{rank}"))
            .spawn(move || work(rank, runner, &received, &reports))
            .map_err(|source| KernelError::Os { what: "starting the thread of a rank", source })?;
        let (orders, thread) = (Some(orders), Some(thread));
        Ok(RankThread { tokens, orders, thread, logits: Vec::new() })
    }
}

/// A rank's life: a step after the other until one fails or no more come. What it holds is let go at
/// the end, its communicator among it.
fn work<R: Runner>(rank: usize, mut runner: R, orders: &Receiver<Order>, reports: &Sender<Report>) {
    while let Ok((step, mut logits)) = orders.recv() {
        let run = || {
            let computed = runner.step(&step)?;
            logits.clear();
            logits.extend_from_slice(computed);
            Ok(logits)
        };
        let panicked = |panic| Err(KernelError::Rank { rank, what: words(panic) });
        let result = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(panicked);
        let ended = result.is_err();
        if reports.send((rank, result)).is_err() || ended {
            return;
        }
    }
}

/// What a thread panicked with.
fn words(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("a panic: {}", text.unwrap_or("of no words"))
}

/// The runners of all ranks, each loaded by a thread of its own.
fn load_all<B: Backend>(
    backends: Vec<B>,
    file: &dyn Checkpoint,
    spec: &DecoderSpec,
    options: &DecoderOptions,
) -> Result<Vec<DecoderRunner<B>>, ModelError> {
    let communicators = B::communicators(&backends.iter().collect::<Vec<_>>())?;
    let results: Vec<Result<DecoderRunner<B>, ModelError>> = thread::scope(|scope| {
        let start = |(backend, communicator)| {
            let load =
                || DecoderRunner::load_rank(backend, communicator, file, spec.clone(), options);
            thread::Builder::new().spawn_scoped(scope, load)
        };
        let threads: Vec<_> = backends.into_iter().zip(communicators).map(start).collect();
        threads.into_iter().enumerate().map(|(rank, thread)| loaded(rank, thread)).collect()
    });
    // What is told is the cause: a rank that waits for one which has failed fails, too.
    let consequence = |error: &ModelError| match error {
        ModelError::Kernel(KernelError::Peer { .. }) => 2,
        ModelError::Kernel(KernelError::Device { .. }) => 1,
        _ => 0,
    };
    let (mut runners, mut errors) = (Vec::with_capacity(results.len()), Vec::new());
    for (rank, result) in results.into_iter().enumerate() {
        match result {
            Ok(runner) => runners.push(runner),
            Err(error) => errors.push((rank, error)),
        }
    }
    let wrong = errors.into_iter().min_by_key(|(_, error)| consequence(error));
    match wrong {
        None => Ok(runners),
        Some((rank, ModelError::Kernel(error))) => {
            Err(KernelError::Rank { rank, what: error.to_string() }.into())
        }
        Some((_, error)) => Err(error),
    }
}

/// What came of a thread that loads.
fn loaded<T>(
    rank: usize,
    thread: std::io::Result<thread::ScopedJoinHandle<'_, Result<T, ModelError>>>,
) -> Result<T, ModelError> {
    let thread = thread
        .map_err(|source| KernelError::Os { what: "starting the thread of a rank", source })?;
    thread.join().unwrap_or_else(|panic| Err(KernelError::Rank { rank, what: words(panic) }.into()))
}

#[cfg(test)]
#[path = "ranks_tests.rs"]
mod tests;
