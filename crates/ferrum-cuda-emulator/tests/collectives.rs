//! Collectives between emulated devices, on one thread and on many.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::undocumented_unsafe_blocks, missing_docs, reason = "tests of a C interface")]

mod common;

use std::ptr;
use std::sync::{Barrier, Mutex};

use common::{Buffer, Gpu, Kernel};
use cudarc::driver::result::{ctx, graph, stream};
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::nccl::sys::{self as nccl, ncclComm_t, ncclDataType_t, ncclRedOp_t, ncclResult_t};
use half::{bf16, f16};

const OK: ncclResult_t = ncclResult_t::ncclSuccess;
const SUM: ncclRedOp_t = ncclRedOp_t::ncclSum;
const F32: ncclDataType_t = ncclDataType_t::ncclFloat32;

const SCALE: &str = "#include \"ptx.cuh\"\n\
    KERNEL(scale, 32, (float* x, float by)) { x[threadIdx.x] *= by; }";

struct Rank {
    comm: ncclComm_t,
    gpu: Gpu,
}

impl Rank {
    fn all_reduce(
        &self,
        send: &Buffer,
        receive: &Buffer,
        count: usize,
        kind: ncclDataType_t,
    ) -> ncclResult_t {
        let (send, receive) = (send.0 as *const _, receive.0 as *mut _);
        unsafe {
            nccl::ncclAllReduce(send, receive, count, kind, SUM, self.comm, self.gpu.stream.cast())
        }
    }

    fn scale(&self, kernel: &Kernel, x: &Buffer, by: f32) {
        self.gpu.launch(kernel, 1, 32, &[x.0, u64::from(by.to_bits())]).unwrap();
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        unsafe { nccl::ncclCommDestroy(self.comm) };
    }
}

/// Runs each rank on a thread of its own, each on one of three devices.
fn on_threads(work: impl Fn(usize, &Rank) + Sync) {
    ferrum_cuda_emulator::load().unwrap();
    let mut id = nccl::ncclUniqueId { internal: [0; 128] };
    assert_eq!(unsafe { nccl::ncclGetUniqueId(&mut id) }, OK);
    // All devices are taken before any rank waits for the others, in the same order by all tests.
    let gpus = Barrier::new(3);
    std::thread::scope(|scope| {
        for rank in 0..3 {
            let (work, gpus) = (&work, &gpus);
            scope.spawn(move || {
                let gpu = Gpu::open(2 * rank);
                gpus.wait();
                let mut comm = ptr::null_mut();
                assert_eq!(unsafe { nccl::ncclCommInitRank(&mut comm, 3, id, rank as i32) }, OK);
                let rank_of = Rank { comm, gpu };
                let work = || work(rank, &rank_of);
                let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                // Nobody leaves while others may still wait for it.
                gpus.wait();
                ended.unwrap();
            });
        }
    });
}

/// One test at a time: each takes the same devices.
static ONE: Mutex<()> = Mutex::new(());
fn alone() -> std::sync::MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[test]
fn sums_over_threads() {
    let _alone = alone();
    on_threads(|rank, me| {
        let kernel = me.gpu.kernel(SCALE, "scale");
        let x = me.gpu.upload(&[1.0_f32; 32]);
        let y = Buffer::new(128).unwrap();
        // The sums depend on the kernels before them, in the streams of all ranks.
        for round in 1..=20 {
            me.scale(&kernel, &x, (rank + round) as f32);
            assert_eq!(me.all_reduce(&x, &y, 32, F32), OK);
            assert_eq!(me.all_reduce(&y, &x, 32, F32), OK); // three times the sum
            me.scale(&kernel, &x, 1.0 / 9.0);
            let values: Vec<f32> = me.gpu.download(&y, 32).unwrap();
            // All ranks begin a round with the same number: a third of the sum.
            let before: f32 = (1..round).map(|r| (3 * r + 3) as f32 / 3.0).product();
            let expected = before * (3 * round + 3) as f32;
            assert!((values[0] / expected - 1.0).abs() < 1e-5, "{round}: {values:?} {expected}");
            assert!(values.iter().all(|v| *v == values[0]));
        }
    });
}

#[test]
fn halves_gathers_and_broadcasts() {
    let _alone = alone();
    on_threads(|rank, me| {
        let value = rank as f32 + 0.5;
        let h = me.gpu.upload(&[f16::from_f32(value); 8]);
        assert_eq!(me.all_reduce(&h, &h, 8, ncclDataType_t::ncclFloat16), OK); // in place
        let b = me.gpu.upload(&[bf16::from_f32(value); 8]);
        assert_eq!(me.all_reduce(&b, &b, 8, ncclDataType_t::ncclBfloat16), OK);
        let halves: Vec<u16> = me.gpu.download(&h, 8).unwrap();
        let brains: Vec<u16> = me.gpu.download(&b, 8).unwrap();
        assert_eq!(halves, [f16::from_f32(4.5).to_bits(); 8]);
        assert_eq!(brains, [bf16::from_f32(4.5).to_bits(); 8]);

        let (x, all) = (me.gpu.upload(&[value; 2]), Buffer::new(24).unwrap());
        let stream = me.gpu.stream.cast();
        unsafe {
            let gathered =
                nccl::ncclAllGather(x.0 as *const _, all.0 as *mut _, 2, F32, me.comm, stream);
            assert_eq!(gathered, OK);
            assert_eq!(me.gpu.download::<f32>(&all, 6).unwrap(), [0.5, 0.5, 1.5, 1.5, 2.5, 2.5]);
            let sent =
                nccl::ncclBroadcast(x.0 as *const _, x.0 as *mut _, 2, F32, 1, me.comm, stream);
            assert_eq!(sent, OK);
        }
        assert_eq!(me.gpu.download::<f32>(&x, 2).unwrap(), [1.5; 2]);
    });
}

#[test]
fn collectives_in_graphs() {
    let _alone = alone();
    on_threads(|rank, me| unsafe {
        let kernel = me.gpu.kernel(SCALE, "scale");
        let x = me.gpu.upload(&[1.0_f32 + rank as f32; 32]);
        me.gpu.sync().unwrap();
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream::begin_capture(me.gpu.stream, mode).unwrap();
        assert_eq!(me.all_reduce(&x, &x, 32, F32), OK);
        me.scale(&kernel, &x, 0.5);
        // Three times as much, and a third of it.
        assert_eq!(me.all_reduce(&x, &x, 32, F32), OK);
        me.scale(&kernel, &x, 1.0 / 3.0);
        let captured = stream::end_capture(me.gpu.stream).unwrap();
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let replay = graph::instantiate(captured, flags).unwrap();
        for _ in 0..3 {
            graph::launch(replay, me.gpu.stream).unwrap();
        }
        // 6 / 2, then three times as much, halved, twice.
        let values: Vec<f32> = me.gpu.download(&x, 32).unwrap();
        assert!(values.iter().all(|value| (value - 6.75).abs() < 1e-5), "{values:?}");
    });
}

#[test]
fn disagreement_is_an_error() {
    let _alone = alone();
    on_threads(|rank, me| {
        let x = me.gpu.upload(&[1.0_f32; 32]);
        assert_eq!(me.all_reduce(&x, &x, 16 + rank, F32), OK);
        assert!(me.gpu.sync().is_err());
        assert!(me.gpu.failure().contains("disagree"), "{}", me.gpu.failure());
    });
}

/// A rank that leaves frees those that wait for it; so does one that aborts all communicators.
#[test]
fn who_waits_is_freed() {
    let _alone = alone();
    let comms: Mutex<Vec<usize>> = Mutex::new(Vec::new());
    on_threads(|rank, me| {
        let x = me.gpu.upload(&[1.0_f32; 32]);
        comms.lock().unwrap().push(me.comm as usize);
        if rank < 2 {
            assert_eq!(me.all_reduce(&x, &x, 32, F32), OK);
            assert!(me.gpu.sync().is_err());
            assert!(!me.gpu.failure().contains("not all ranks came"), "{}", me.gpu.failure());
            return;
        }
        while comms.lock().unwrap().len() < 3 {
            std::thread::yield_now();
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        for comm in comms.lock().unwrap().iter() {
            assert_eq!(unsafe { nccl::ncclCommAbort(*comm as ncclComm_t) }, OK);
        }
    });
}

#[test]
fn one_thread_with_two_devices() {
    let _alone = alone();
    let gpus = [Gpu::open(1), Gpu::open(3)];
    let mut comms = [ptr::null_mut(); 2];
    assert_eq!(unsafe { nccl::ncclCommInitAll(comms.as_mut_ptr(), 2, [1, 3].as_ptr()) }, OK);
    let ranks: Vec<Rank> =
        gpus.into_iter().zip(comms).map(|(gpu, comm)| Rank { comm, gpu }).collect();
    let current = |rank: &Rank| unsafe {
        let device = cudarc::driver::result::device::get(rank.gpu.ordinal as i32).unwrap();
        let context = cudarc::driver::result::primary_ctx::retain(device).unwrap();
        cudarc::driver::result::primary_ctx::release(device).unwrap();
        ctx::set_current(context).unwrap();
    };
    let buffers: Vec<Buffer> = ranks
        .iter()
        .enumerate()
        .map(|(i, rank)| {
            current(rank);
            rank.gpu.upload(&[i as f32 + 1.0; 4])
        })
        .collect();
    unsafe { nccl::ncclGroupStart() };
    for (rank, x) in ranks.iter().zip(&buffers) {
        assert_eq!(rank.all_reduce(x, x, 4, F32), OK);
    }
    assert_eq!(unsafe { nccl::ncclGroupEnd() }, OK);
    for (rank, x) in ranks.iter().zip(&buffers) {
        current(rank);
        assert_eq!(rank.gpu.download::<f32>(x, 4).unwrap(), [3.0; 4]);
    }
    // Without a group a card would hang.
    assert_eq!(ranks[0].all_reduce(&buffers[0], &buffers[0], 4, F32), OK);
    let alone = ranks[1].all_reduce(&buffers[1], &buffers[1], 4, F32);
    assert_eq!(alone, ncclResult_t::ncclInvalidUsage);
    // Brings the second rank after all, so that the first can end.
    unsafe { nccl::ncclGroupStart() };
    assert_eq!(ranks[1].all_reduce(&buffers[1], &buffers[1], 4, F32), OK);
    assert_eq!(unsafe { nccl::ncclGroupEnd() }, OK);
    let too_long = ranks[0].all_reduce(&buffers[0], &buffers[0], 5, F32);
    assert_eq!(too_long, ncclResult_t::ncclInvalidArgument);
}
