//! The order in which work runs on a card, with its scratch memory and its recordings.

use std::sync::Arc;

use cudarc::driver::result::stream;
use cudarc::driver::{result, sys};

use super::device::Device;
use super::driver::Named;
use super::memory::Memory;
use crate::{KernelError, Result};

/// What scratch memory is for. Each has its own, so that two of one operation never overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scratch {
    /// An input in the order of a weight's columns.
    Arranged,
    /// Activations in the form that products are computed with.
    Activations,
    /// Results of parts of a context.
    Attention,
    /// The tokens of each expert.
    Experts,
    /// What cuBLASLt works with beside its operands.
    Library,
    /// Products by cuBLASLt that are yet to be scaled.
    Unscaled,
    /// Products that are not yet what an operation gives.
    Products,
    /// Bytes of a file on their way to a weight.
    Staging,
}

/// A stream. Work on it runs in the order of the calls.
pub struct CudaStream {
    pub(super) device: Arc<Device>,
    pub(super) raw: sys::CUstream,
    scratch: [Option<Arc<Memory>>; 8],
    /// Memory that the recording under way mentions.
    pub(super) recording: Option<Vec<Arc<Memory>>>,
}

// SAFETY: a stream may be used from any thread, by one at a time; `&mut` sees to that.
unsafe impl Send for CudaStream {}

impl CudaStream {
    pub(super) fn new(device: &Arc<Device>) -> Result<CudaStream> {
        device.bind("stream")?;
        let raw = stream::create(stream::StreamKind::NonBlocking).op("stream")?;
        Ok(CudaStream { device: device.clone(), raw, scratch: Default::default(), recording: None })
    }

    /// At least `bytes` bytes of scratch memory of no set content. It stays until more is asked for,
    /// which a recording refuses: run the same step once before it is recorded.
    pub(super) fn scratch(&mut self, which: Scratch, bytes: usize) -> Result<Arc<Memory>> {
        let place = &mut self.scratch[which as usize];
        if let Some(memory) = place.as_ref().filter(|memory| memory.bytes() >= bytes) {
            return Ok(memory.clone());
        }
        if self.recording.is_some() {
            let what = format!("{which:?}: {bytes} bytes of scratch memory while recording");
            return Err(KernelError::shape("record", what));
        }
        // The old one is given back first, as both may not fit; unless recordings mention it. So that
        // those do not keep many of them, it is doubled at least.
        *place = None;
        let bytes = bytes.checked_next_power_of_two().unwrap_or(bytes);
        let memory = Arc::new(Memory::new(&self.device, bytes, "scratch memory")?);
        *place = Some(memory.clone());
        Ok(memory)
    }

    /// Has a recording keep memory that what was queued mentions.
    pub(super) fn mention<const N: usize>(&mut self, memories: [Option<&Arc<Memory>>; N]) {
        if let Some(recording) = &mut self.recording {
            recording.extend(memories.into_iter().flatten().cloned());
        }
    }

    /// An error while operations are recorded.
    pub(super) fn running(&self, op: &'static str) -> Result<()> {
        match self.recording {
            None => Ok(()),
            Some(_) => Err(KernelError::shape(op, "while operations are recorded")),
        }
    }

    /// Copies values to `memory`, `offset` bytes behind its beginning.
    pub(super) fn copy_in<T: Copy>(
        &mut self,
        op: &'static str,
        src: &[T],
        memory: &Memory,
        offset: usize,
    ) -> Result<()> {
        self.running(op)?;
        assert!(offset + size_of_val(src) <= memory.bytes(), "within the memory");
        if src.is_empty() {
            return Ok(());
        }
        self.device.bind(op)?;
        let dst = memory.address() + offset as u64;
        // SAFETY: the memory is as long. The driver copies values in pageable memory to memory of its
        // own before the call returns.
        unsafe { result::memcpy_htod_async(dst, src, self.raw) }.op(op)
    }

    /// Copies values from the beginning of `memory`, after all work before it.
    pub(super) fn copy_out<T: Copy>(
        &mut self,
        op: &'static str,
        memory: &Memory,
        dst: &mut [T],
    ) -> Result<()> {
        assert!(size_of_val(dst) <= memory.bytes(), "within the memory");
        if dst.is_empty() {
            return self.synchronize(op);
        }
        self.device.bind(op)?;
        // SAFETY: the memory is as long, and `dst` is there until the copy has ended.
        unsafe { result::memcpy_dtoh_async(dst, memory.address(), self.raw) }.op(op)?;
        self.synchronize(op)
    }

    /// Waits for all work.
    pub(super) fn synchronize(&mut self, op: &'static str) -> Result<()> {
        self.running(op)?;
        self.device.bind(op)?;
        // SAFETY: the stream is alive.
        unsafe { stream::synchronize(self.raw) }.op(op)
    }
}

impl Drop for CudaStream {
    fn drop(&mut self) {
        if self.device.bind("stream").is_ok() {
            // SAFETY: alive until now; its work has ended. Errors have nobody to hear them.
            unsafe {
                let _ = stream::synchronize(self.raw);
                let _ = stream::destroy(self.raw);
            }
        }
    }
}
