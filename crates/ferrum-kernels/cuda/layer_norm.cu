// Layer normalisation: a block a group of `width` values.
#include "ptx.cuh"
#include "block_sum.cuh"

// dst[g, :] = (src[g, :] - mean) / sqrt(variance + eps) * weight + bias; `src` may be `dst`.
KERNEL(layer_norm, 256,
       (float* dst, const float* src, const float* weight, const float* bias, int width, float eps)) {
  __shared__ float partials[32];
  const float* x = src + (u64)blockIdx.x * width;
  float* y = dst + (u64)blockIdx.x * width;
  float sum = 0.0f;
  for (int i = threadIdx.x; i < width; i += blockDim.x) sum += x[i];
  float mean = block_sum(sum, partials) / width;
  // From the differences, not from the squares, of which little would be left.
  float squares = 0.0f;
  for (int i = threadIdx.x; i < width; i += blockDim.x) squares += (x[i] - mean) * (x[i] - mean);
  float scale = 1.0f / sqrtf(block_sum(squares, partials) / width + eps);
  for (int i = threadIdx.x; i < width; i += blockDim.x)
    y[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}
