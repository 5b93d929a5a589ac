// Rounds activations to the number type of a dense weight, for products by cuBLASLt. Compiled for F16
// and BF16, with `FORMAT` defined as the name.
//
// F16 ends at 65504. Where a value of the input is larger than 2^15, all values are multiplied by one
// power of two before they are rounded, and the product by its inverse.
#include "halves.cuh"

#ifndef FORMAT
#define FORMAT F16
#endif

// The largest `v` of a block, the same in every thread. `partials` holds 32 values of shared memory;
// the block is whole warps.
DEVICE u32 block_largest(u32 v, u32* partials) {
  v = __reduce_max_sync(0xffffffffu, v);
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (lane == 0) partials[warp] = v;
  __syncthreads();
  return __reduce_max_sync(0xffffffffu, lane < blockDim.x / 32 ? partials[lane] : 0u);
}

// maxima[row]: the bits of the largest magnitude of x[row, :], a block a row; of a row that has an
// infinity or a NaN 0, so that its own results show it and those of other rows do not.
KERNEL(largest, 256, (const float* x, u32* maxima, int cols)) {
  __shared__ u32 partials[32];
  const float* row = x + (i64)blockIdx.x * cols;
  u32 most = 0;
  for (int i = threadIdx.x; i < cols; i += blockDim.x) {
    most = max(most, __float_as_uint(row[i]) & 0x7fffffffu);
  }
  most = block_largest(most, partials);
  if (threadIdx.x == 0) maxima[blockIdx.x] = most < 0x7f800000u ? most : 0u;
}

// The exponent, biased, of the factor that the product takes: values come to lie below 2^16.
DEVICE int product_exponent(F16*, u32 most) { return max((int)(most >> 23) - 14, 127); }
DEVICE int product_exponent(BF16*, u32) { return 127; }

// rounded[rows, padded] from x[rows, cols], with zeroes past `cols`, a block a row; `scalars`: the
// factor of the product, 1 and 0. `maxima` is that of `largest`, or null if no type needs it. Reads 4
// bytes a value and writes 2.
KERNEL(round, 256,
       (const float* x, const u32* maxima, u16* rounded, float* scalars, int cols, int padded)) {
  __shared__ u32 partials[32];
  u32 most = 0;
  for (int i = threadIdx.x; maxima && i < gridDim.x; i += blockDim.x) most = max(most, maxima[i]);
  int exponent = product_exponent((FORMAT*)nullptr, block_largest(most, partials));
  float inverse = __uint_as_float((u32)(254 - exponent) << 23);
  for (int i = threadIdx.x; i < padded; i += blockDim.x) {
    float v = i < cols ? x[(i64)blockIdx.x * cols + i] * inverse : 0.0f;
    rounded[(i64)blockIdx.x * padded + i] = HalvesOf<FORMAT>::round(v);
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    scalars[0] = __uint_as_float((u32)exponent << 23), scalars[1] = 1.0f, scalars[2] = 0.0f;
  }
}
