//! Correct kernels give correct results under every schedule.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::undocumented_unsafe_blocks, missing_docs, reason = "tests of a C interface")]

mod common;

use common::{Buffer, Gpu};

/// A sum over a block by shuffles, a barrier and static shared memory.
const BLOCK_SUM: &str = r#"
#include "ptx.cuh"
KERNEL(block_sum, 256, (const float* x, float* out, int n)) {
  __shared__ float parts[8];
  float sum = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += x[i];
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x < 32) {
    float part = threadIdx.x < blockDim.x / 32 ? parts[threadIdx.x] : 0.0f;
    part = warp_sum(part);
    if (threadIdx.x == 0) out[blockIdx.x] = part;
  }
}
"#;

#[test]
fn shuffles_barriers_and_shared_memory() {
    Gpu::each(|gpu| {
        let kernel = gpu.kernel(BLOCK_SUM, "block_sum");
        let x: Vec<f32> = (0..10_000).map(|i| (i % 17) as f32).collect();
        let (input, output) = (gpu.upload(&x), Buffer::new(7 * 4).unwrap());
        gpu.launch(&kernel, 7, 256, &[input.0, output.0, x.len() as u64]).unwrap();
        let sums: Vec<f32> = gpu.download(&output, 7).unwrap();
        assert_eq!(sums.iter().sum::<f32>(), x.iter().sum::<f32>());
    });
}

/// Every kind of meeting of a warp, with what each lane must get.
const WARP: &str = r#"
#include "ptx.cuh"
KERNEL(warp_functions, 64, (i32* out)) {
  int lane = threadIdx.x % 32, v = 100 + lane;
  i32* o = out + 16 * threadIdx.x;
  o[0] = __shfl_sync(0xffffffffu, v, 5);
  o[1] = __shfl_sync(0xffffffffu, v, lane + 1, 8);
  o[2] = __shfl_xor_sync(0xffffffffu, v, 3);
  o[3] = __shfl_down_sync(0xffffffffu, v, 4);
  o[4] = __shfl_up_sync(0xffffffffu, v, 4, 16);
  o[5] = (i32)__ballot_sync(0xffffffffu, lane % 3 == 0);
  o[6] = __any_sync(0xffffffffu, lane == 9) + 2 * __all_sync(0xffffffffu, lane < 31);
  o[7] = (i32)__match_any_sync(0xffffffffu, lane / 10);
  o[8] = __reduce_add_sync(0xffffffffu, lane);
  // The two halves meet separately and by turns.
  if (lane < 16) o[9] = __shfl_xor_sync(0x0000ffffu, v, 1);
  else o[9] = __shfl_xor_sync(0xffff0000u, v, 2);
  o[10] = __syncthreads_count(lane < 5);
  o[11] = __syncthreads_or(threadIdx.x == 63) + 2 * __syncthreads_and(threadIdx.x != 63);
}
"#;

#[test]
fn warp_functions() {
    Gpu::each(|gpu| {
        let kernel = gpu.kernel(WARP, "warp_functions");
        let output = Buffer::new(64 * 16 * 4).unwrap();
        gpu.launch(&kernel, 1, 64, &[output.0]).unwrap();
        let out: Vec<i32> = gpu.download(&output, 64 * 16).unwrap();
        for thread in 0..64_i32 {
            let lane = thread % 32;
            let base = lane / 10 * 10;
            let same = (0..32).filter(|l| l / 10 * 10 == base).fold(0_u32, |m, l| m | 1 << l);
            let expected = [
                105,
                100 + lane / 8 * 8 + (lane + 1) % 8,
                100 + (lane ^ 3),
                100 + if lane + 4 < 32 { lane + 4 } else { lane },
                100 + if lane % 16 >= 4 { lane - 4 } else { lane },
                (0..32).filter(|l| l % 3 == 0).fold(0_u32, |m, l| m | 1 << l) as i32,
                1,
                same as i32,
                496,
                100 + if lane < 16 { lane ^ 1 } else { lane ^ 2 },
                10,
                1,
            ];
            assert_eq!(&out[16 * thread as usize..][..12], &expected, "thread {thread}");
        }
    });
}

/// A block of two dimensions, kernels made by a macro, arguments of many sizes.
const SHAPES: &str = r#"
#include "ptx.cuh"
#define SCALED(name, type) \
  KERNEL(name##_scaled, 64, (type* out, u8 a, float b, u16 c, i64 d, uint2 e)) { \
    out[threadIdx.x] = (type)(a + b + c + d + e.x + e.y); \
  }
SCALED(f32, float)
SCALED(i32, int)
"#;

#[test]
fn kernels_of_macros_and_arguments_of_all_sizes() {
    Gpu::each(|gpu| {
        let output = Buffer::new(8).unwrap();
        let pair = 7 << 32 | 6;
        let arguments = [output.0, 1, u64::from(2.5_f32.to_bits()), 3, (-40_i64) as u64, pair];
        gpu.launch(&gpu.kernel(SHAPES, "f32_scaled"), 1, 2, &arguments).unwrap();
        assert_eq!(gpu.download::<f32>(&output, 2).unwrap(), [-20.5; 2]);
        gpu.launch(&gpu.kernel(SHAPES, "i32_scaled"), 1, 2, &arguments).unwrap();
        assert_eq!(gpu.download::<i32>(&output, 2).unwrap(), [-20; 2]);
    });
}

/// Two stages of a pipeline through dynamic shared memory.
const PIPELINE: &str = r#"
#include "ptx.cuh"
KERNEL(pipeline, 32, (const float* x, float* out, int tiles, int last)) {
  DYNAMIC_SHARED(float, tile);  // [2, 128]
  int t = threadIdx.x;
  cp_async16(tile + 4 * t, x + 4 * t);
  cp_async_commit();
  float sum = 0;
  for (int i = 0; i < tiles; i++) {
    int next = (i + 1) * 128 + 4 * t;
    cp_async16_or_zero(tile + (i + 1) % 2 * 128 + 4 * t, next < last ? x + next : x, next < last);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    for (int j = 0; j < 4; j++) sum += tile[i % 2 * 128 + (4 * t + 64 + j) % 128];
    __syncthreads();
  }
  cp_async_wait<0>();
  __syncthreads();
  out[t] = sum + tile[tiles % 2 * 128 + t];
}
"#;

#[test]
fn asynchronous_copies() {
    Gpu::each(|gpu| {
        let kernel = gpu.kernel(PIPELINE, "pipeline");
        let x: Vec<f32> = (0..512).map(|i| i as f32).collect();
        let (input, output) = (gpu.upload(&x), Buffer::new(128).unwrap());
        gpu.launch_with(&kernel, 1, 32, 1024, &[input.0, output.0, 4, 512]).unwrap();
        let out: Vec<f32> = gpu.download(&output, 32).unwrap();
        for (t, value) in out.iter().enumerate() {
            let expected: f32 = (0..4)
                .flat_map(|i| (0..4).map(move |j| i * 128 + (4 * t + 64 + j) % 128))
                .map(|i| x[i])
                .sum();
            assert_eq!(*value, expected, "thread {t}");
        }
    });
}

#[test]
fn atomics() {
    let source = "#include \"ptx.cuh\"\n\
        KERNEL(count, 128, (u32* n, float* s, i32* m)) {\n\
          atomicAdd(n, 1); atomicAdd(s, 0.5f); atomicMax(m, (int)(blockIdx.x * 128 + threadIdx.x));\n\
        }";
    Gpu::each(|gpu| {
        let kernel = gpu.kernel(source, "count");
        let (n, s, m) = (gpu.upload(&[0_u32]), gpu.upload(&[0_f32]), gpu.upload(&[0_i32]));
        gpu.launch(&kernel, 10, 128, &[n.0, s.0, m.0]).unwrap();
        assert_eq!(gpu.download::<u32>(&n, 1).unwrap(), [1280]);
        assert_eq!(gpu.download::<f32>(&s, 1).unwrap(), [640.0]);
        assert_eq!(gpu.download::<i32>(&m, 1).unwrap(), [1279]);
    });
}

#[test]
fn a_missing_barrier_shows() {
    let source = |barrier: &str| {
        format!(
            "#include \"ptx.cuh\"\n\
             KERNEL(turn, 64, (const float* x, float* out)) {{\n\
               __shared__ float s[64];\n\
               s[threadIdx.x] = x[threadIdx.x];\n\
               {barrier}\n\
               out[threadIdx.x] = s[63 - threadIdx.x];\n\
             }}"
        )
    };
    let x: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let turned: Vec<f32> = x.iter().rev().copied().collect();
    Gpu::each(|gpu| {
        let (input, output) = (gpu.upload(&x), Buffer::new(256).unwrap());
        gpu.launch(&gpu.kernel(&source("__syncthreads();"), "turn"), 1, 64, &[input.0, output.0])
            .unwrap();
        assert_eq!(gpu.download::<f32>(&output, 64).unwrap(), turned);
        // What nobody has written yet is NaN.
        gpu.launch(&gpu.kernel(&source(""), "turn"), 1, 64, &[input.0, output.0]).unwrap();
        assert!(gpu.download::<f32>(&output, 64).unwrap().iter().any(|v| v.is_nan()));
    });
}

#[test]
fn a_missing_wait_shows() {
    // The second copy goes where the first has arrived: what is read early is not the old value.
    let source = |wait: &str| {
        format!(
            "#include \"ptx.cuh\"\n\
             KERNEL(twice, 32, (const float* x, float* out)) {{\n\
               DYNAMIC_SHARED(float, s);\n\
               int t = 4 * threadIdx.x;\n\
               cp_async16(s + t, x + t);\n\
               cp_async_commit();\n\
               cp_async_wait<0>();\n\
               cp_async16(s + t, x + 128 + t);\n\
               cp_async_commit();\n\
               {wait}\n\
               for (int i = 0; i < 4; i++) out[t + i] = s[t + i];\n\
             }}"
        )
    };
    let x: Vec<f32> = (0..256).map(|i| i as f32).collect();
    Gpu::each(|gpu| {
        let (input, output) = (gpu.upload(&x), Buffer::new(512).unwrap());
        let run = |wait: &str| -> Vec<f32> {
            let kernel = gpu.kernel(&source(wait), "twice");
            gpu.launch_with(&kernel, 1, 32, 512, &[input.0, output.0]).unwrap();
            gpu.download(&output, 128).unwrap()
        };
        assert_eq!(run("cp_async_wait<0>();"), x[128..]);
        assert!(run("").iter().all(|v| v.is_nan()));
        assert!(run("cp_async_wait<1>();").iter().all(|v| v.is_nan()));
    });
}

#[test]
fn schedules_differ() {
    let source = "#include \"ptx.cuh\"\n\
        KERNEL(order, 64, (u32* next, u32* out)) {\n\
          out[blockIdx.x * 64 + threadIdx.x] = atomicAdd(next, 1);\n\
        }";
    let mut orders = Vec::new();
    for ordinal in 0..ferrum_cuda_emulator::DEVICES {
        let gpu = Gpu::open(ordinal);
        let (next, out) = (gpu.upload(&[0_u32]), Buffer::new(8 * 64 * 4).unwrap());
        gpu.launch(&gpu.kernel(source, "order"), 8, 64, &[next.0, out.0]).unwrap();
        orders.push(gpu.download::<u32>(&out, 512).unwrap());
    }
    let ascending: Vec<u32> = (0..512).collect();
    assert_eq!(orders[0], ascending);
    assert_eq!(orders[2], ascending.iter().rev().copied().collect::<Vec<_>>());
    assert!(orders[4] != orders[0] && orders[4] != orders[2]);
    for (ordinal, order) in orders.iter().enumerate() {
        let schedule = ferrum_cuda_emulator::schedule(ordinal);
        let first = [0, 2, 4].into_iter().find(|i| ferrum_cuda_emulator::schedule(*i) == schedule);
        assert_eq!(*order, orders[first.unwrap()], "devices of one schedule agree");
    }
}

#[test]
fn two_threads_with_two_devices() {
    let threads = [0, 5].map(|ordinal| {
        std::thread::spawn(move || {
            let gpu = Gpu::open(ordinal);
            let kernel = gpu.kernel(BLOCK_SUM, "block_sum");
            for round in 1..200 {
                let x = vec![round as f32; 1000];
                let (input, output) = (gpu.upload(&x), Buffer::new(4).unwrap());
                gpu.launch(&kernel, 1, 256, &[input.0, output.0, 1000]).unwrap();
                assert_eq!(gpu.download::<f32>(&output, 1).unwrap(), [1000.0 * round as f32]);
                input.free().unwrap();
                output.free().unwrap();
            }
        })
    });
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
