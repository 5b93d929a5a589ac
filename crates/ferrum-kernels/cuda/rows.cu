// Picking rows and columns, and adding to rows: a block a row.
#include "ptx.cuh"

// dst[r, :] = src[rows[r], :]
KERNEL(gather_rows, 128, (float* dst, const float* src, const int* rows, int width)) {
  const float* from = src + (u64)rows[blockIdx.x] * width;
  float* to = dst + (u64)blockIdx.x * width;
  for (int i = threadIdx.x; i < width; i += blockDim.x) to[i] = from[i];
}

// dst[t, j] = src[t, columns[j]]
KERNEL(gather_columns, 128, (float* dst, const float* src, const int* columns, int width)) {
  const float* from = src + (u64)blockIdx.x * width;
  float* to = dst + (u64)blockIdx.x * width;
  for (int i = threadIdx.x; i < width; i += blockDim.x) to[i] = from[columns[i]];
}

// dst[rows[r], :] += src[r, :]; no row is named twice.
KERNEL(scatter_add, 128, (float* dst, const float* src, const int* rows, int width)) {
  const float* from = src + (u64)blockIdx.x * width;
  float* to = dst + (u64)rows[blockIdx.x] * width;
  for (int i = threadIdx.x; i < width; i += blockDim.x) to[i] += from[i];
}
