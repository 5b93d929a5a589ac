//! Correct kernels give correct results under every schedule.
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
