//! Streams, events, graphs: order, laziness, and what a capture forbids.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::undocumented_unsafe_blocks, missing_docs, reason = "tests of a C interface")]

mod common;

use common::{Buffer, Gpu, Kernel};
use cudarc::driver::result::{self, event, graph, stream};
use cudarc::driver::sys::{
    self, CUevent_flags, CUevent_wait_flags, CUgraphExec, CUgraphInstantiate_flags, CUresult,
    CUstreamCaptureMode, CUstreamCaptureStatus,
};

const STEP: &str = "#include \"ptx.cuh\"\n\
    KERNEL(step, 32, (float* x, float by)) { x[threadIdx.x] = 2 * x[threadIdx.x] + by; }";

const THREAD_LOCAL: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;

fn step(gpu: &Gpu, kernel: &Kernel, x: &Buffer, by: f32) {
    gpu.launch(kernel, 1, 32, &[x.0, u64::from(by.to_bits())]).unwrap();
}

/// What is done in between, as a graph that can be launched.
fn captured(gpu: &Gpu, work: impl FnOnce()) -> CUgraphExec {
    unsafe {
        stream::begin_capture(gpu.stream, THREAD_LOCAL).unwrap();
        let status = stream::is_capturing(gpu.stream).unwrap();
        assert_eq!(status, CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE);
        work();
        let captured = stream::end_capture(gpu.stream).unwrap();
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let executable = graph::instantiate(captured, flags).unwrap();
        graph::destroy(captured).unwrap();
        executable
    }
}

#[test]
fn graphs_replay() {
    Gpu::each(|gpu| {
        let kernel = gpu.kernel(STEP, "step");
        let (x, y) = (gpu.upload(&[1.0_f32; 32]), Buffer::new(128).unwrap());
        let replay = captured(gpu, || {
            step(gpu, &kernel, &x, 1.0);
            step(gpu, &kernel, &x, 0.0);
            unsafe { result::memcpy_dtod_async(y.0, x.0, 128, gpu.stream).unwrap() };
        });
        // To capture is not to run.
        assert_eq!(gpu.download::<f32>(&x, 32).unwrap(), [1.0; 32]);
        let mut expected = 1.0;
        for _ in 0..5 {
            unsafe { graph::launch(replay, gpu.stream).unwrap() };
            expected = 2.0 * (2.0 * expected + 1.0);
        }
        assert_eq!(gpu.download::<f32>(&y, 32).unwrap(), [expected; 32]);
        // Addresses are part of a graph, contents are not.
        unsafe {
            result::memcpy_htod_async(x.0, &[0.0_f32; 32], gpu.stream).unwrap();
            graph::upload(replay, gpu.stream).unwrap();
            graph::launch(replay, gpu.stream).unwrap();
            graph::exec_destroy(replay).unwrap(); // its work may still be to come
        }
        assert_eq!(gpu.download::<f32>(&y, 32).unwrap(), [2.0; 32]);
    });
}

#[test]
fn graphs_of_freed_memory() {
    Gpu::each(|gpu| {
        let kernel = gpu.kernel(STEP, "step");
        let x = gpu.upload(&[1.0_f32; 32]);
        let replay = captured(gpu, || step(gpu, &kernel, &x, 1.0));
        x.free().unwrap();
        unsafe { graph::launch(replay, gpu.stream).unwrap() };
        assert_eq!(gpu.sync().unwrap_err().0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        let text = gpu.failure();
        assert!(text.contains("step mentions freed memory"), "{text}");
    });
}

#[test]
fn captures_forbid_allocation_and_synchronisation() {
    let unsupported = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    let mut pinned = std::ptr::null_mut();
    type Call<'a> = &'a mut dyn FnMut(&Gpu) -> Result<(), CUresult>;
    let calls: [(&str, Call); 6] = [
        ("cuMemAlloc", &mut |_| Buffer::new(64).map(drop).map_err(|e| e.0)),
        ("cuMemAllocAsync", &mut |gpu| unsafe {
            result::malloc_async(gpu.stream, 64).map(drop).map_err(|e| e.0)
        }),
        ("cuStreamSynchronize", &mut |gpu| gpu.sync().map_err(|e| e.0)),
        ("cuCtxSynchronize", &mut |_| result::ctx::synchronize().map_err(|e| e.0)),
        ("cuStreamQuery", &mut |gpu| unsafe {
            sys::cuStreamQuery(gpu.stream).result().map_err(|e| e.0)
        }),
        ("cuMemHostAlloc", &mut |_| unsafe {
            sys::cuMemHostAlloc(&mut pinned, 64, 0).result().map_err(|e| e.0)
        }),
    ];
    for (name, call) in calls {
        let gpu = Gpu::open(0);
        unsafe { stream::begin_capture(gpu.stream, THREAD_LOCAL).unwrap() };
        assert_eq!(call(&gpu).unwrap_err(), unsupported, "{name}");
        let status = unsafe { stream::is_capturing(gpu.stream).unwrap() };
        assert_eq!(status, CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED, "{name}");
        let ended = unsafe { stream::end_capture(gpu.stream).unwrap_err().0 };
        assert_eq!(ended, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "{name}");
        assert!(call(&gpu).is_ok(), "{name} after the capture");
    }
}

#[test]
fn a_free_during_a_capture() {
    let gpu = Gpu::open(0);
    let x = gpu.upload(&[1.0_f32; 32]);
    unsafe { stream::begin_capture(gpu.stream, THREAD_LOCAL).unwrap() };
    let error = x.free().unwrap_err().0;
    assert_eq!(error, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    unsafe { stream::end_capture(gpu.stream).unwrap_err() };
}

/// On a device that no other test of this file uses at the time: global mode concerns all threads.
#[test]
fn captures_of_other_threads() {
    let gpu = Gpu::open(1);
    let elsewhere = || {
        std::thread::spawn(|| {
            let gpu = Gpu::open(3);
            Buffer::new(64).map(drop).map_err(|e| e.0).map(|()| gpu.sync().unwrap())
        })
        .join()
        .unwrap()
    };
    unsafe {
        stream::begin_capture(gpu.stream, THREAD_LOCAL).unwrap();
        assert_eq!(elsewhere(), Ok(()));
        stream::end_capture(gpu.stream).unwrap();
    }
}

#[test]
fn work_waits_for_synchronisation() {
    Gpu::each(|gpu| unsafe {
        let kernel = gpu.kernel(STEP, "step");
        let x = gpu.upload(&[1.0_f32; 32]);
        let pinned = result::malloc_host(128, 0).unwrap().cast::<f32>();
        let pinned = std::slice::from_raw_parts_mut(pinned, 32);
        pinned.fill(-1.0);
        step(gpu, &kernel, &x, 1.0);
        result::memcpy_dtoh_async(pinned, x.0, gpu.stream).unwrap();
        assert_eq!(pinned[0], -1.0, "nothing has run yet");
        let mut rounds = 0;
        while sys::cuStreamQuery(gpu.stream) == CUresult::CUDA_ERROR_NOT_READY {
            rounds += 1;
        }
        assert!(rounds > 0 && pinned[0] == 3.0);
        // Pinned memory is read when the copy runs, other memory at the call.
        let mut ordinary = [7.0_f32; 32];
        let y = Buffer::new(256).unwrap();
        pinned.fill(1.0);
        result::memcpy_htod_async(y.0, pinned, gpu.stream).unwrap();
        result::memcpy_htod_async(y.0 + 128, &ordinary, gpu.stream).unwrap();
        pinned.fill(2.0);
        ordinary.fill(8.0);
        assert_eq!(gpu.download::<f32>(&y, 64).unwrap()[31..33], [2.0, 7.0]);
        result::free_host(pinned.as_mut_ptr().cast()).unwrap();
    });
}

#[test]
fn events_order_streams() {
    Gpu::each(|gpu| unsafe {
        let kernel = gpu.kernel(STEP, "step");
        let other = stream::create(stream::StreamKind::NonBlocking).unwrap();
        let flags = CUevent_flags::CU_EVENT_DEFAULT;
        let (begin, ready) = (event::create(flags).unwrap(), event::create(flags).unwrap());
        let (x, y) = (gpu.upload(&[1.0_f32; 32]), gpu.upload(&[0.0_f32; 32]));
        gpu.sync().unwrap();
        event::record(begin, gpu.stream).unwrap();
        step(gpu, &kernel, &x, 1.0);
        event::record(ready, gpu.stream).unwrap();
        // Without a wait the copy runs before the step.
        result::memcpy_dtod_async(y.0, x.0, 64, other).unwrap();
        let wait = CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        stream::wait_event(other, ready, wait).unwrap();
        result::memcpy_dtod_async(y.0 + 64, x.0 + 64, 64, other).unwrap();
        stream::synchronize(other).unwrap();
        event::synchronize(ready).unwrap();
        assert_eq!(event::query(ready), Ok(()));
        assert!(event::elapsed(begin, ready).unwrap() >= 0.0);
        let y: Vec<f32> = gpu.download(&y, 32).unwrap();
        assert_eq!(y[..16], [1.0; 16]);
        assert_eq!(y[16..], [3.0; 16]);
        event::destroy(begin).unwrap();
        event::destroy(ready).unwrap();
        stream::destroy(other).unwrap();
    });
}

#[test]
fn captures_fork_and_join() {
    let gpu = Gpu::open(0);
    let kernel = gpu.kernel(STEP, "step");
    let x = gpu.upload(&[1.0_f32; 32]);
    let y = gpu.upload(&[1.0_f32; 32]);
    gpu.sync().unwrap();
    unsafe {
        let other = stream::create(stream::StreamKind::NonBlocking).unwrap();
        let flags = CUevent_flags::CU_EVENT_DISABLE_TIMING;
        let (fork, join) = (event::create(flags).unwrap(), event::create(flags).unwrap());
        let wait = CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        let both = |joined: bool| {
            stream::begin_capture(gpu.stream, THREAD_LOCAL).unwrap();
            step(&gpu, &kernel, &x, 1.0);
            event::record(fork, gpu.stream).unwrap();
            stream::wait_event(other, fork, wait).unwrap();
            result::memcpy_dtod_async(y.0, x.0, 128, other).unwrap();
            event::record(join, other).unwrap();
            if joined {
                stream::wait_event(gpu.stream, join, wait).unwrap();
            }
            stream::end_capture(gpu.stream)
        };
        let unjoined = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
        assert_eq!(both(false).unwrap_err().0, unjoined);
        let captured = both(true).unwrap();
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let replay = graph::instantiate(captured, flags).unwrap();
        graph::launch(replay, gpu.stream).unwrap();
        assert_eq!(gpu.download::<f32>(&y, 32).unwrap(), [3.0; 32]);
    }
}

#[test]
fn wrong_launches() {
    let gpu = Gpu::open(0);
    let kernel = gpu.kernel(STEP, "step");
    let x = gpu.upload(&[1.0_f32; 32]);
    let launch = |grid, block, shared| {
        gpu.launch_with(&kernel, grid, block, shared, &[x.0, 0]).map_err(|e| e.0)
    };
    let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
    assert_eq!(launch(1, 33, 0), Err(CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES));
    assert_eq!(launch(0, 32, 0), Err(invalid));
    assert_eq!(launch(1, 0, 0), Err(invalid));
    assert_eq!(launch(1, 2048, 0), Err(invalid));
    assert_eq!(launch(1, 32, 50_000), Err(invalid));
    let most = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    unsafe {
        result::function::set_function_attribute(kernel.function, most, 50_000).unwrap();
        assert!(result::function::set_function_attribute(kernel.function, most, 200_000).is_err());
    }
    assert_eq!(launch(1, 32, 50_000), Ok(()));
    gpu.sync().unwrap();
}

#[test]
fn wrong_copies_and_handles() {
    let gpu = Gpu::open(0);
    let x = gpu.upload(&[1.0_f32; 32]);
    let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
    unsafe {
        let long = [0.0_f32; 33];
        assert_eq!(result::memcpy_htod_async(x.0, &long, gpu.stream).unwrap_err().0, invalid);
        assert_eq!(result::memset_d8_async(x.0 + 1, 0, 128, gpu.stream).unwrap_err().0, invalid);
        assert_eq!(result::memcpy_dtod_async(x.0, x.0 + 8, 16, gpu.stream).unwrap_err().0, invalid);
        let handle = CUresult::CUDA_ERROR_INVALID_HANDLE;
        let gone = stream::create(stream::StreamKind::NonBlocking).unwrap();
        stream::destroy(gone).unwrap();
        assert_eq!(stream::synchronize(gone).unwrap_err().0, handle);
        assert_eq!(sys::cuGraphLaunch(std::ptr::null_mut(), gpu.stream), handle);
    }
}

#[test]
fn memory_runs_out_and_comes_back() {
    let gpu = Gpu::open(1);
    let (free, total) = result::mem_get_info().unwrap();
    let x = Buffer::new(total / 2).unwrap();
    assert_eq!(result::mem_get_info().unwrap().0, free - total / 2);
    assert_eq!(Buffer::new(total).err().unwrap().0, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    x.free().unwrap();
    assert_eq!(result::mem_get_info().unwrap().0, free);
    gpu.sync().unwrap();
}
