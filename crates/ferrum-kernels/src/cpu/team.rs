//! A persistent team of threads for many short parallel regions.
//!
//! A general work-stealing pool costs microseconds a region; a decode step has hundreds of regions,
//! some of them only a few microseconds long. Here the workers watch one cache line, and a region
//! costs some hundred nanoseconds. A worker that has waited for about a millisecond parks, so
//! that an idle process uses no processor time.
//!
//! Where other processes want the processors too, a worker may be off its processor for
//! milliseconds, which is many regions. So a region does not wait for workers that have not begun
//! it: the chunks are done by those that are there, and who comes too late is left out.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::{KernelError, Result};

/// Polls before a waiting thread starts to yield its time slice: some 50 µs, longer than most
/// serial stretches between two regions of a step.
const SPINS: u32 = 4_000;

/// How long an idle worker yields before it parks. Waking a parked thread takes up to 100 µs,
/// which must not happen inside a step.
const YIELD_TIME: Duration = Duration::from_millis(1);

/// What a region runs: called once on every thread that takes part, with the thread's number.
type Job = *const (dyn Fn(usize) + Sync);

/// A value on cache lines of its own (two: processors fetch lines in pairs).
#[repr(align(128))]
struct Padded<T>(T);

/// All that a worker polls and reads to start a region: one cache line.
struct Front {
    /// Number of the latest region.
    epoch: AtomicU32,
    /// Workers that are parked or about to be.
    parked: AtomicU32,
    /// The latest region's job. Written by the caller between regions only.
    job: UnsafeCell<Job>,
}

struct Shared {
    front: Padded<Front>,
    /// Per worker: the last region that it has finished or been left out of, as [`finished`], or the
    /// one that it is in, as [`running`]. Between regions, all have finished the latest.
    places: Vec<Padded<AtomicU64>>,
    /// Next chunk to be taken: of all in [`Team::chunks`], where the first counts; of each thread's
    /// share in [`Team::stream`].
    next: Vec<Padded<AtomicUsize>>,
    stop: AtomicBool,
    /// Whether a worker has panicked in the current region.
    panicked: AtomicBool,
    /// What the first of them panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// A worker's place when region `epoch` is behind it.
fn finished(epoch: u32) -> u64 {
    u64::from(epoch) << 1
}

/// A worker's place while it runs region `epoch`.
fn running(epoch: u32) -> u64 {
    finished(epoch) | 1
}

// SAFETY: all fields but `job` are Sync. `job` is written by the owner of the team while no region
// runs (`run` takes `&mut self` and returns after every worker has finished the region or been left
// out of it) and read by workers only inside of a region, which they enter after the release store
// of the epoch that publishes it. What it points to is `Sync` and outlives the region.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is the only field that is not Send.
unsafe impl Send for Shared {}

/// A team of threads, the caller's thread among them.
pub(crate) struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Team {
    /// Starts `threads - 1` workers.
    pub(crate) fn new(threads: usize) -> Result<Self> {
        let workers = threads.saturating_sub(1);
        let idle: &'static (dyn Fn(usize) + Sync) = &|_| {};
        let shared = Arc::new(Shared {
            front: Padded(Front {
                epoch: AtomicU32::new(0),
                parked: AtomicU32::new(0),
                job: UnsafeCell::new(idle),
            }),
            places: (0..workers).map(|_| Padded(AtomicU64::new(finished(0)))).collect(),
            next: (0..=workers).map(|_| Padded(AtomicUsize::new(0))).collect(),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        // Built first, so that workers already started are stopped if a later one cannot be.
        let mut team = Team { shared, workers: Vec::with_capacity(workers) };
        for worker in 0..workers {
            let shared = Arc::clone(&team.shared);
            let handle = thread::Builder::new()
                .name(format!("ferrum-cpu-{}", worker + 1))
                .spawn(move || work(&shared, worker))
                .map_err(|source| KernelError::Os { what: "starting a worker thread", source })?;
            team.workers.push(handle);
        }
        Ok(team)
    }

    /// Threads, the caller's among them.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `f(thread, chunk)` for every chunk in `0..chunks`, in order, each on whichever thread is
    /// free, and returns when all are done. A panic on any thread is passed on to the caller, after
    /// the others have finished.
    pub(crate) fn chunks(&mut self, chunks: usize, f: &(dyn Fn(usize, usize) + Sync)) {
        let threads = self.threads();
        if threads == 1 || chunks <= 1 {
            return (0..chunks).for_each(|chunk| f(0, chunk));
        }
        let shared = Arc::clone(&self.shared);
        shared.next[0].0.store(0, Ordering::Relaxed);
        self.run(&|thread| take(&shared.next[0].0, chunks, |chunk| f(thread, chunk)));
    }

    /// As [`Team::chunks`], but neighbouring chunks stay on one thread: each goes through a share of
    /// its own and then helps with the others'. For chunks that lie side by side in memory, which
    /// is read fastest in long runs.
    pub(crate) fn stream(&mut self, chunks: usize, f: &(dyn Fn(usize, usize) + Sync)) {
        let threads = self.threads();
        if threads == 1 || chunks <= 1 {
            return (0..chunks).for_each(|chunk| f(0, chunk));
        }
        let start = |share: usize| share * chunks / threads;
        let shared = Arc::clone(&self.shared);
        for (share, next) in shared.next.iter().enumerate() {
            next.0.store(start(share), Ordering::Relaxed);
        }
        self.run(&|thread| {
            for share in (thread..threads).chain(0..thread) {
                take(&shared.next[share].0, start(share + 1), |chunk| f(thread, chunk));
            }
        });
    }

    /// Runs `f(thread)` once on the caller's thread and on every worker that comes before the caller
    /// is through; so `f` must see to all of the work on whichever threads run it. `&mut self` makes
    /// nested and concurrent regions of one team impossible to write.
    fn run(&mut self, f: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() {
            return f(0);
        }
        // SAFETY: only the lifetime is changed. The pointer is used by workers between their entry
        // and their end of the region, and this function does not return (nor unwind) before each
        // has ended it or can no longer enter, while `f` is borrowed.
        let job = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(std::ptr::from_ref(f))
        };
        // SAFETY: no region is running, so no worker reads the cell (see `Sync for Shared`).
        unsafe { *self.shared.front.0.job.get() = job };
        let epoch = self.publish();
        let mine = catch_unwind(AssertUnwindSafe(|| f(0)));
        for place in &self.shared.places {
            close(&place.0, epoch);
        }
        if mine.is_err() || self.shared.panicked.load(Ordering::Relaxed) {
            self.pass_on(mine.err());
        }
    }

    /// Passes on the panic of a region that has ended: the caller's own, or else a worker's.
    #[cold]
    fn pass_on(&self, mine: Option<Box<dyn Any + Send>>) {
        self.shared.panicked.store(false, Ordering::Relaxed);
        let theirs = self.shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = mine.or(theirs) {
            resume_unwind(panic);
        }
    }

    /// Starts the next region on the workers and returns its number.
    fn publish(&self) -> u32 {
        let front = &self.shared.front.0;
        // SeqCst here and in `sleep`: either the worker sees the new epoch before it parks, or
        // this thread sees that the worker is parked.
        let epoch = front.epoch.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        if front.parked.load(Ordering::SeqCst) > 0 {
            for worker in &self.workers {
                worker.thread().unpark();
            }
        }
        epoch
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.publish();
        for worker in self.workers.drain(..) {
            // A worker catches every panic of its jobs, so there is none to pass on.
            let _ = worker.join();
        }
    }
}

/// Runs `f` on the chunks from `next` to `end` that no other thread takes.
fn take(next: &AtomicUsize, end: usize, f: impl Fn(usize)) {
    loop {
        let chunk = next.fetch_add(1, Ordering::Relaxed);
        if chunk >= end {
            return;
        }
        f(chunk);
    }
}

/// A worker's life: wait for a region, enter it if it is not too late, run it, report.
fn work(shared: &Shared, worker: usize) {
    let (front, place) = (&shared.front.0, &shared.places[worker].0);
    loop {
        // The caller moves it on where it leaves this worker out.
        let before = place.load(Ordering::Acquire);
        let last = (before >> 1) as u32;
        if !wait_until(|| front.epoch.load(Ordering::Acquire) != last, Some(YIELD_TIME)) {
            sleep(front, last);
        }
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let epoch = last.wrapping_add(1);
        let entered =
            place.compare_exchange(before, running(epoch), Ordering::AcqRel, Ordering::Relaxed);
        if entered.is_err() {
            continue;
        }
        // SAFETY: the epoch has moved on, so the job is published, and it stays valid while this
        // worker's place says that it runs the region (see `run`).
        let job = unsafe { &**front.job.get() };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(worker + 1))) {
            shared.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
            shared.panicked.store(true, Ordering::Relaxed);
        }
        place.store(finished(epoch), Ordering::Release);
    }
}

/// Leaves the worker out of region `epoch` if it has not begun it, or else waits for its end.
fn close(place: &AtomicU64, epoch: u32) {
    let before = finished(epoch.wrapping_sub(1));
    // Looked at first: where a worker has finished, as most have, its cache line stays shared.
    if place.load(Ordering::Acquire) == before
        && place
            .compare_exchange(before, finished(epoch), Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    {
        return;
    }
    wait_until(|| place.load(Ordering::Acquire) == finished(epoch), None);
}

/// Parks until the epoch is no longer `seen`.
#[cold]
fn sleep(front: &Front, seen: u32) {
    front.parked.fetch_add(1, Ordering::SeqCst);
    while front.epoch.load(Ordering::SeqCst) == seen {
        thread::park();
    }
    front.parked.fetch_sub(1, Ordering::SeqCst);
}

/// Polls, at first without giving the processor away; false if `limit` passes before `ready`.
/// Yielding matters where there are more threads than processors: the thread waited for may be
/// waiting for this one's time slice.
pub(crate) fn wait_until(ready: impl Fn() -> bool, limit: Option<Duration>) -> bool {
    for _ in 0..SPINS {
        if ready() {
            return true;
        }
        std::hint::spin_loop();
    }
    let start = Instant::now();
    while !ready() {
        if limit.is_some_and(|limit| start.elapsed() > limit) {
            return false;
        }
        thread::yield_now();
    }
    true
}

#[cfg(test)]
#[path = "team_tests.rs"]
mod tests;
