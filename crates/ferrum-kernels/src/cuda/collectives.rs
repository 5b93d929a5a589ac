//! Collectives between cards, over NCCL, which is found at run time.

use std::ffi::{CStr, c_int};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::nccl::sys::{self, ncclComm_t, ncclDataType_t, ncclRedOp_t, ncclResult_t};

use super::device::Device;
use super::event::Event;
use super::memory::Memory;
use super::stream::CudaStream;
use super::{Cuda, CudaBuffer, NAME};
use crate::checks::Operand;
use crate::params::{AllGather, Broadcast};
use crate::{Communicator, KernelError, Result};

const F32: ncclDataType_t = ncclDataType_t::ncclFloat32;

/// Values of the sums by which cards get to know one another. NCCL connects them when an algorithm is
/// first used, and has others for few values than for many.
const FIRST_SUMS: [usize; 2] = [1, 1 << 20];

/// Collectives between two looks at how far the card is behind. With this, a rank queues some hundred
/// launches ahead at most, a part of what a driver has room for.
const BETWEEN_LOOKS: usize = 16;

/// A card's place in a world of several.
pub struct CudaCommunicator {
    world: Arc<World>,
    rank: usize,
    /// Collectives that were queued, recorded ones not counted.
    queued: usize,
    /// A point among them, [`BETWEEN_LOOKS`] to twice as many ago.
    mark: Option<Event>,
}

/// All communicators of a world, so that whoever fails can free those that wait for it.
struct World {
    members: Vec<Member>,
}

struct Member {
    device: Arc<Device>,
    /// `None` once the world has ended.
    comm: Mutex<Option<Comm>>,
}

/// NCCL's handle.
struct Comm(ncclComm_t);

// SAFETY: NCCL's communicators may be used from any thread, by one at a time: a mutex sees to that.
unsafe impl Send for Comm {}

impl Comm {
    /// Ends what it runs. An error has nobody to hear it.
    fn abort(self, device: &Device) {
        if device.bind("abort").is_ok() {
            // SAFETY: made by NCCL, and not used again.
            let _ = unsafe { sys::ncclCommAbort(self.0) };
        }
    }
}

impl Member {
    fn comm(&self) -> MutexGuard<'_, Option<Comm>> {
        self.comm.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    /// Ends what runs and frees who waits. All at once: to end a member takes until nothing refers to it
    /// any more, recorded steps among it, which may wait for the members that are not ended yet.
    fn end(&self) {
        let taken = self.members.iter().map(|member| (member, member.comm().take()));
        let taken: Vec<_> = taken.collect();
        std::thread::scope(|scope| {
            for (member, comm) in taken {
                let Some(comm) = comm else { continue };
                scope.spawn(move || comm.abort(&member.device));
            }
        });
    }
}

/// NCCL's result as ours, with its words.
fn named(op: &'static str, result: ncclResult_t) -> Result<()> {
    if result == ncclResult_t::ncclSuccess {
        return Ok(());
    }
    let text = |words: *const std::ffi::c_char| {
        // SAFETY: NCCL gives a string that stays, or none.
        (!words.is_null()).then(|| unsafe { CStr::from_ptr(words) }.to_string_lossy().into_owned())
    };
    // SAFETY: both may be called at any time; the last error is not of one communicator.
    let (kind, last) =
        unsafe { (sys::ncclGetErrorString(result), sys::ncclGetLastError(ptr::null_mut())) };
    let words: Vec<String> = [kind, last].into_iter().filter_map(text).collect();
    Err(KernelError::Device { backend: NAME, op, what: format!("NCCL: {}", words.join(": ")) })
}

/// [`crate::Backend::communicators`].
pub(super) fn communicators(ranks: &[&Cuda]) -> Result<Vec<CudaCommunicator>> {
    let op = "communicators";
    // SAFETY: loads a library of the system and lets it go again.
    if !unsafe { sys::is_culib_present() } {
        let what = "several cards at once: NCCL's library (libnccl.so) is not installed".into();
        return Err(KernelError::Unsupported { backend: NAME, what });
    }
    let device = |rank: &&Cuda| rank.device.clone();
    let devices: Vec<Arc<Device>> = ranks.iter().map(device).collect();
    alike(&devices)?;
    let number = |device: &Arc<Device>| c_int::try_from(device.properties.ordinal).unwrap_or(-1);
    let ordinals: Vec<c_int> = devices.iter().map(number).collect();
    let count = c_int::try_from(ordinals.len())
        .map_err(|_| KernelError::shape(op, format!("{} ranks", ordinals.len())))?;
    let mut raw = vec![ptr::null_mut(); ordinals.len()];
    // SAFETY: both arrays have so many entries.
    named(op, unsafe { sys::ncclCommInitAll(raw.as_mut_ptr(), count, ordinals.as_ptr()) })?;
    let member = |(device, raw)| Member { device, comm: Mutex::new(Some(Comm(raw))) };
    let members = devices.into_iter().zip(raw).map(member).collect();
    let world = Arc::new(World { members });
    // Made first, so that dropping them ends the world where the cards do not find one another.
    let places: Vec<CudaCommunicator> =
        (0..ranks.len()).map(|rank| CudaCommunicator::new(&world, rank)).collect();
    for values in FIRST_SUMS {
        connect(&world, values)?;
    }
    Ok(places)
}

/// An error unless all cards run the same machine code. What every rank computes for itself, such as
/// which experts a token has, must come out the same to the last bit.
fn alike(devices: &[Arc<Device>]) -> Result<()> {
    let first = devices.first().map(|device| &device.properties);
    let other = devices.iter().map(|device| &device.properties);
    let mut other = other.filter(|card| first.is_some_and(|f| f.capability != card.capability));
    match (first, other.next()) {
        (Some(first), Some(other)) => {
            let what = format!("one model on cards of two kinds: {first} and {other}");
            Err(KernelError::Unsupported { backend: NAME, what })
        }
        _ => Ok(()),
    }
}

/// Adds up some numbers on all cards. What NCCL does at the first use of an algorithm, it does here,
/// where one thread speaks for all ranks and none can wait for another that fails.
fn connect(world: &World, values: usize) -> Result<()> {
    let op = "communicators";
    let mut sums = Vec::new();
    for member in &world.members {
        let memory = Memory::new(&member.device, values * size_of::<f32>(), "a first sum")?;
        memory.clear()?;
        sums.push((CudaStream::new(&member.device)?, memory));
    }
    // SAFETY: ended below, whatever comes between.
    named(op, unsafe { sys::ncclGroupStart() })?;
    let mut result = Ok(());
    for (member, (stream, memory)) in world.members.iter().zip(&sums) {
        let comm = member.comm();
        let Some(Comm(raw)) = *comm else { continue };
        let x = memory.address() as *mut std::ffi::c_void;
        // SAFETY: the memory has so many values, and lives until the streams have ended.
        let queued = unsafe {
            sys::ncclAllReduce(x, x, values, F32, ncclRedOp_t::ncclSum, raw, stream.raw.cast())
        };
        result = result.and(named(op, queued));
    }
    // SAFETY: begun above.
    let ended = named(op, unsafe { sys::ncclGroupEnd() });
    result.and(ended)?;
    sums.iter_mut().try_for_each(|(stream, _)| stream.synchronize(op))
}

impl CudaCommunicator {
    fn new(world: &Arc<World>, rank: usize) -> Self {
        CudaCommunicator { world: world.clone(), rank, queued: 0, mark: None }
    }

    /// Waits for the card where it is far behind. Where the queue of launches is full, a launch waits
    /// for room; one of NCCL's would do so with its communicator in use, so that nobody could end it,
    /// and if the card itself waits for a rank that has failed, all would wait for ever. Here nothing
    /// is held.
    fn stay_near(&mut self, op: &'static str, s: &mut CudaStream) -> Result<()> {
        if s.recording.is_some() {
            return Ok(());
        }
        self.queued += 1;
        if self.queued.is_multiple_of(BETWEEN_LOOKS) {
            let now = Event::record(s)?;
            if let Some(mark) = self.mark.replace(now) {
                mark.wait(op)?;
            }
        }
        Ok(())
    }

    /// Queues a collective on the stream; `mentioned` is the memory that it uses.
    fn queue(
        &mut self,
        op: &'static str,
        s: &mut CudaStream,
        mentioned: &[&Arc<Memory>],
        call: impl FnOnce(ncclComm_t, sys::cudaStream_t) -> ncclResult_t,
    ) -> Result<()> {
        if !Arc::ptr_eq(&self.world.members[self.rank].device, &s.device) {
            return Err(KernelError::shape(op, "the stream is of another card than the rank"));
        }
        self.stay_near(op, s)?;
        s.device.bind(op)?;
        let member = &self.world.members[self.rank];
        let comm = member.comm();
        let Some(Comm(raw)) = *comm else { return Err(KernelError::Peer { op }) };
        named(op, call(raw, s.raw.cast()))?;
        if let Some(recording) = &mut s.recording {
            recording.extend(mentioned.iter().map(|&memory| memory.clone()));
        }
        Ok(())
    }

    /// [`crate::Backend::all_reduce`].
    pub(super) fn all_reduce(
        &mut self,
        s: &mut CudaStream,
        x: &mut CudaBuffer,
        len: usize,
    ) -> Result<()> {
        let op = "all_reduce";
        let memory = x.floats_mut(op, len)?.memory;
        let place = memory.address() as *mut std::ffi::c_void;
        self.queue(op, s, &[memory], |comm, stream| {
            // SAFETY: the buffer has so many values, and the stream's order keeps others from it.
            unsafe {
                sys::ncclAllReduce(place, place, len, F32, ncclRedOp_t::ncclSum, comm, stream)
            }
        })
    }

    /// [`crate::Backend::all_gather`].
    pub(super) fn all_gather(&mut self, s: &mut CudaStream, p: AllGather<'_, Cuda>) -> Result<()> {
        let (op, AllGather { dst, src, len }) = ("all_gather", p);
        let Some(all) = len.checked_mul(self.ranks()) else {
            let what = format!("{len} values of {} ranks", self.ranks());
            return Err(KernelError::shape(op, what));
        };
        let (dst, src) = (dst.floats_mut(op, all)?.memory, src.floats(op, len)?.memory);
        let to = dst.address() as *mut std::ffi::c_void;
        let from = src.address() as *const std::ffi::c_void;
        self.queue(op, s, &[dst, src], |comm, stream| {
            // SAFETY: as in `all_reduce`; `dst` has the values of all ranks.
            unsafe { sys::ncclAllGather(from, to, len, F32, comm, stream) }
        })
    }

    /// [`crate::Backend::broadcast`].
    pub(super) fn broadcast(&mut self, s: &mut CudaStream, p: Broadcast<'_, Cuda>) -> Result<()> {
        let (op, Broadcast { x, len, root }) = ("broadcast", p);
        let from = c_int::try_from(root).ok().filter(|_| root < self.ranks());
        let Some(from) = from else {
            return Err(KernelError::shape(op, format!("rank {root} of {}", self.ranks())));
        };
        let memory = x.floats_mut(op, len)?.memory;
        let place = memory.address() as *mut std::ffi::c_void;
        self.queue(op, s, &[memory], |comm, stream| {
            // SAFETY: as in `all_reduce`.
            unsafe { sys::ncclBroadcast(place, place, len, F32, from, comm, stream) }
        })
    }
}

impl Communicator for CudaCommunicator {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.world.members.len()
    }
}

impl Drop for CudaCommunicator {
    fn drop(&mut self) {
        self.world.end();
    }
}
