//! Collectives between threads of this process, for the backends whose buffers are ordinary memory.
//!
//! Every rank puts what it brings into a place that the others read, with a barrier before they read
//! and one before it brings the next. A sum is that of rank 0, 1, 2, … in this order, whoever computes
//! it, so that it has the same bits on all ranks.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::Duration;

use super::HostBuffer;
use crate::cpu::team::wait_until;
use crate::params::{AllGather, Broadcast};
use crate::{Backend, Communicator, KernelError, Result};

/// How long a rank yields its time slice to one that it waits for, before it looks only now and then.
const YIELD_TIME: Duration = Duration::from_millis(2);

/// How often it looks then.
const PAUSE: Duration = Duration::from_micros(100);

/// Values up to which each rank adds up all of a sum: fewer copies than when they share it out.
const ALONE: usize = 4096;

/// The place of a rank that computes in ordinary memory.
#[derive(Debug)]
pub struct HostCommunicator {
    world: Arc<World>,
    rank: usize,
    /// Barriers that it has come to.
    barriers: u64,
}

#[derive(Debug)]
struct World {
    places: Vec<Place>,
    /// A rank has left: no barrier that it has not come to will ever be passed.
    ended: AtomicBool,
}

/// What the other ranks see of one, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Place {
    /// Barriers that the rank has come to.
    barriers: AtomicU64,
    /// What it brings. Written before a first barrier, read between that and the second.
    part: RwLock<Part>,
    /// Its share of the sum. Written before a second barrier, read after it.
    sum: RwLock<Vec<f32>>,
}

#[derive(Debug, Default)]
struct Part {
    asked: Option<Collective>,
    values: Vec<f32>,
}

/// What a rank asks for: the same as all others, or something is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Collective {
    AllReduce { len: usize },
    AllGather { len: usize },
    Broadcast { len: usize, root: usize },
}

impl Collective {
    fn op(self) -> &'static str {
        match self {
            Collective::AllReduce { .. } => "all_reduce",
            Collective::AllGather { .. } => "all_gather",
            Collective::Broadcast { .. } => "broadcast",
        }
    }
}

/// A lock holds plain numbers, which a panic elsewhere cannot leave half made.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl HostCommunicator {
    /// The places of a world of so many ranks.
    pub(crate) fn world(ranks: usize) -> Vec<HostCommunicator> {
        let places = (0..ranks).map(|_| Place::default()).collect();
        let world = Arc::new(World { places, ended: AtomicBool::new(false) });
        (0..ranks)
            .map(|rank| HostCommunicator { world: world.clone(), rank, barriers: 0 })
            .collect()
    }

    /// [`Backend::all_reduce`].
    pub(crate) fn all_reduce(&mut self, x: &mut HostBuffer, len: usize) -> Result<()> {
        let asked = Collective::AllReduce { len };
        let x = x.f32_mut(asked.op(), len)?;
        self.bring(asked, x)?;
        if len <= ALONE {
            self.add_up(0..len, x);
            return self.meet(asked.op());
        }
        let mine = self.share(self.rank, len);
        let mut sum = write(&self.world.places[self.rank].sum);
        sum.resize(mine.len(), 0.0);
        self.add_up(mine, &mut sum);
        drop(sum);
        self.meet(asked.op())?;
        for (rank, place) in self.world.places.iter().enumerate() {
            x[self.share(rank, len)].copy_from_slice(&read(&place.sum));
        }
        Ok(())
    }

    /// [`Backend::all_gather`].
    pub(crate) fn all_gather<B>(&mut self, p: AllGather<'_, B>) -> Result<()>
    where
        B: Backend<Buffer = HostBuffer>,
    {
        let AllGather { dst, src, len } = p;
        let asked = Collective::AllGather { len };
        let Some(all) = len.checked_mul(self.ranks()) else {
            let what = format!("{len} values of {} ranks", self.ranks());
            return Err(KernelError::shape(asked.op(), what));
        };
        let dst = dst.f32_mut(asked.op(), all)?;
        self.bring(asked, src.f32(asked.op(), len)?)?;
        for (rank, place) in self.world.places.iter().enumerate() {
            dst[rank * len..][..len].copy_from_slice(&read(&place.part).values);
        }
        self.meet(asked.op())
    }

    /// [`Backend::broadcast`].
    pub(crate) fn broadcast<B>(&mut self, p: Broadcast<'_, B>) -> Result<()>
    where
        B: Backend<Buffer = HostBuffer>,
    {
        let Broadcast { x, len, root } = p;
        let asked = Collective::Broadcast { len, root };
        if root >= self.ranks() {
            let what = format!("rank {root} of {}", self.ranks());
            return Err(KernelError::shape(asked.op(), what));
        }
        let x = x.f32_mut(asked.op(), len)?;
        self.bring(asked, if root == self.rank { x } else { &[] })?;
        if root != self.rank {
            x.copy_from_slice(&read(&self.world.places[root].part).values);
        }
        self.meet(asked.op())
    }

    /// Shows the others what this rank asks for and brings; all have brought theirs then.
    fn bring(&mut self, asked: Collective, values: &[f32]) -> Result<()> {
        let mut part = write(&self.world.places[self.rank].part);
        part.asked = Some(asked);
        part.values.clear();
        part.values.extend_from_slice(values);
        drop(part);
        self.meet(asked.op())?;
        for (rank, place) in self.world.places.iter().enumerate() {
            let theirs = read(&place.part).asked;
            if theirs != Some(asked) {
                let (own, theirs) = (format!("{asked:?} on rank {}", self.rank), theirs);
                let theirs = theirs.map_or("nothing".into(), |theirs| format!("{theirs:?}"));
                let what = format!("the ranks disagree: {own}, {theirs} on rank {rank}");
                return Err(KernelError::shape(asked.op(), what));
            }
        }
        Ok(())
    }

    /// `sum[i - range.start] = Σ_r part_r[i]` for `i` in the range.
    fn add_up(&self, range: Range<usize>, sum: &mut [f32]) {
        for (rank, place) in self.world.places.iter().enumerate() {
            let part = read(&place.part);
            let values = &part.values[range.clone()];
            if rank == 0 {
                sum.copy_from_slice(values);
            } else {
                sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            }
        }
    }

    /// The part of `len` values that a rank adds up.
    fn share(&self, rank: usize, len: usize) -> Range<usize> {
        // Whole cache lines.
        let lines = len.div_ceil(16);
        let start = |rank: usize| (rank * lines / self.ranks() * 16).min(len);
        start(rank)..start(rank + 1)
    }

    /// Waits until all ranks have come here.
    fn meet(&mut self, op: &'static str) -> Result<()> {
        self.barriers += 1;
        let (world, barriers) = (&*self.world, self.barriers);
        world.places[self.rank].barriers.store(barriers, Ordering::Release);
        for place in &world.places {
            let come = || place.barriers.load(Ordering::Acquire) >= barriers;
            let over = || come() || world.ended.load(Ordering::Acquire);
            if !wait_until(over, Some(YIELD_TIME)) {
                while !over() {
                    thread::sleep(PAUSE);
                }
            }
            // A rank may have come, and left after it.
            if !come() {
                return Err(KernelError::Peer { op });
            }
        }
        Ok(())
    }
}

impl Communicator for HostCommunicator {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.world.places.len()
    }
}

impl Drop for HostCommunicator {
    fn drop(&mut self) {
        self.world.ended.store(true, Ordering::Release);
    }
}
