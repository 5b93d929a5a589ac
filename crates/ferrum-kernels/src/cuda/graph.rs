//! Recordings: CUDA graphs, with the memory that they mention.

use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::device::Device;
use super::driver::Named;
use super::memory::Memory;
use super::stream::CudaStream;
use crate::{KernelError, Result};

/// A graph of launches, ready to run.
pub struct Recording {
    device: Arc<Device>,
    graph: sys::CUgraph,
    runnable: sys::CUgraphExec,
    /// The stream that it runs on.
    stream: sys::CUstream,
    /// A graph does not keep the memory that its launches point to.
    _mentioned: Vec<Arc<Memory>>,
}

// SAFETY: a graph may be used from any thread, by one at a time: `replay` needs its stream.
unsafe impl Send for Recording {}

/// From now on launches are recorded.
pub(super) fn begin(s: &mut CudaStream) -> Result<()> {
    s.running("begin_recording")?;
    s.device.bind("begin_recording")?;
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: the stream is alive.
    unsafe { result::stream::begin_capture(s.raw, mode) }.op("begin_recording")?;
    s.recording = Some(Vec::new());
    Ok(())
}

/// What was recorded.
pub(super) fn end(s: &mut CudaStream) -> Result<Recording> {
    let op = "end_recording";
    let Some(mentioned) = s.recording.take() else {
        return Err(KernelError::shape(op, "nothing is being recorded"));
    };
    s.device.bind(op)?;
    // SAFETY: the stream is alive, and recording.
    let graph = unsafe { result::stream::end_capture(s.raw) }.op(op)?;
    if graph.is_null() {
        return Err(KernelError::shape(op, "the recording was broken off"));
    }
    let flags = sys::CUgraphInstantiate_flags(0);
    // SAFETY: the graph was made just now.
    let runnable = match unsafe { result::graph::instantiate(graph, flags) } {
        Ok(runnable) => runnable,
        Err(error) => {
            // SAFETY: as above. Another error has nobody to hear it.
            let _ = unsafe { result::graph::destroy(graph) };
            return Err(error).op(op);
        }
    };
    let (device, stream) = (s.device.clone(), s.raw);
    Ok(Recording { device, graph, runnable, stream, _mentioned: mentioned })
}

/// Runs what was recorded.
pub(super) fn replay(s: &mut CudaStream, recording: &Recording) -> Result<()> {
    s.running("replay")?;
    if recording.stream != s.raw {
        return Err(KernelError::shape("replay", "the recording is of another stream"));
    }
    s.device.bind("replay")?;
    // SAFETY: both are alive, and so is all memory that the launches mention.
    unsafe { result::graph::launch(recording.runnable, s.raw) }.op("replay")
}

impl Drop for Recording {
    fn drop(&mut self) {
        if self.device.bind("recording").is_ok() {
            // SAFETY: made in `end`. Errors have nobody to hear them.
            unsafe {
                let _ = result::graph::exec_destroy(self.runnable);
                let _ = result::graph::destroy(self.graph);
            }
        }
    }
}
