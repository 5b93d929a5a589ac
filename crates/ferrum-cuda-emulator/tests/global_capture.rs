//! A capture in global mode concerns every thread of the process, so it has a process of its own.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::undocumented_unsafe_blocks, missing_docs, reason = "tests of a C interface")]

mod common;

use common::{Buffer, Gpu};
use cudarc::driver::result::stream;
use cudarc::driver::sys::{CUresult, CUstreamCaptureMode};

/// An allocation by another thread on another device.
fn elsewhere() -> Result<(), CUresult> {
    let allocate = || {
        let _gpu = Gpu::open(3);
        Buffer::new(64).map(drop).map_err(|e| e.0)
    };
    std::thread::spawn(allocate).join().unwrap()
}

#[test]
fn no_thread_may_allocate() {
    let gpu = Gpu::open(0);
    assert_eq!(elsewhere(), Ok(()));
    unsafe {
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
        stream::begin_capture(gpu.stream, mode).unwrap();
        assert_eq!(elsewhere(), Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED));
        let ended = stream::end_capture(gpu.stream).unwrap_err().0;
        assert_eq!(ended, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        // In relaxed mode even the capturing thread may.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        stream::begin_capture(gpu.stream, mode).unwrap();
        assert!(Buffer::new(64).is_ok());
        stream::end_capture(gpu.stream).unwrap();
    }
    assert_eq!(elsewhere(), Ok(()));
}
