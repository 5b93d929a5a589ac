// Root-mean-square normalisation: a block a group of `width` values.
//
// Reads and writes each value once (and once more from the cache): 8 bytes a value, 12 with a
// residual. 4096 tokens of 4096 values: 134 MB, 40 us at 3.35 TB/s.
#include "ptx.cuh"
#include "block_sum.cuh"

// dst[g, :] (+)= src[g, :] / sqrt(mean(src[g, :]^2) + eps) * weight; `src` may be `dst`.
KERNEL(rms_norm, 256,
       (float* dst, const float* src, const float* weight, int width, float eps, int accumulate)) {
  __shared__ float partials[32];
  const float* x = src + (u64)blockIdx.x * width;
  float* y = dst + (u64)blockIdx.x * width;
  float squares = 0.0f;
  for (int i = threadIdx.x; i < width; i += blockDim.x) squares += x[i] * x[i];
  float scale = 1.0f / sqrtf(block_sum(squares, partials) / width + eps);
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    float value = x[i] * scale * weight[i];
    y[i] = accumulate ? y[i] + value : value;
  }
}
