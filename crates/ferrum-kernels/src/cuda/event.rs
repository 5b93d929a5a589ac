//! Points in a stream's work: CUDA events, which the card gives the time of.

use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{result, sys};

use super::device::Device;
use super::driver::Named;
use super::stream::CudaStream;
use crate::{KernelError, Result};

/// A point in the work of a stream.
pub struct Event {
    device: Arc<Device>,
    raw: sys::CUevent,
    /// The stream that it was recorded on.
    stream: sys::CUstream,
}

// SAFETY: an event may be used from any thread; after `record` it is only read.
unsafe impl Send for Event {}

impl Event {
    /// The point behind all that has been queued.
    pub(super) fn record(s: &mut CudaStream) -> Result<Event> {
        let op = "mark";
        s.running(op)?;
        s.device.bind(op)?;
        let raw = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).op(op)?;
        let event = Event { device: s.device.clone(), raw, stream: s.raw };
        // SAFETY: both are alive, and of one card.
        unsafe { result::event::record(raw, s.raw) }.op(op)?;
        Ok(event)
    }

    /// Waits until the stream's work has come to it.
    pub(super) fn wait(&self, op: &'static str) -> Result<()> {
        self.device.bind(op)?;
        // SAFETY: the event is alive, and was recorded.
        unsafe { sys::cuEventSynchronize(self.raw) }.result().op(op)
    }

    /// The time from this to `later`, to half a microsecond; waits for that one.
    pub(super) fn until(&self, later: &Event) -> Result<Duration> {
        let op = "elapsed";
        if self.stream != later.stream {
            return Err(KernelError::shape(op, "marks of two streams"));
        }
        self.device.bind(op)?;
        // SAFETY: both events are alive, and were recorded.
        let milliseconds = unsafe {
            sys::cuEventSynchronize(later.raw).result().op(op)?;
            result::event::elapsed(self.raw, later.raw).op(op)?
        };
        Duration::try_from_secs_f64(f64::from(milliseconds) / 1e3)
            .map_err(|_| KernelError::shape(op, "the second mark is before the first"))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.device.bind("mark").is_ok() {
            // SAFETY: made in `record`. An error has nobody to hear it.
            let _ = unsafe { result::event::destroy(self.raw) };
        }
    }
}
