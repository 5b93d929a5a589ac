// Rounds activations to the number type of a dense weight, for products by cuBLASLt, and scales such
// products. Compiled for F16, BF16 and E4M3, with `FORMAT` defined as the name.
//
// Exponents of F16 and E4M3 are few, so rows are brought to where they lie best: each is multiplied by the
// power of two with which its largest value lies at 2^14 (of E4M3 at 2^7, whose largest number is 448), and
// the products of a row by the inverse. Powers of two lose nothing themselves.
#include "halves.cuh"

#ifndef FORMAT
#define FORMAT F16
#endif

template <class F>
struct Rounded : HalvesOf<F> {};

template <>
struct Rounded<F8_E4M3> {
  using Number = u8;
  static constexpr bool SCALED = true;
  static DEVICE u8 round(float v) { return f32_to_e4m3(v); }
  static DEVICE int exponent(u32 largest) { return max((int)(largest >> 23), 8) - 7; }
};

// The largest `v` of a block, the same in every thread. `partials` holds 32 values of shared memory;
// the block is whole warps.
DEVICE u32 block_largest(u32 v, u32* partials) {
  v = __reduce_max_sync(0xffffffffu, v);
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (lane == 0) partials[warp] = v;
  __syncthreads();
  return __reduce_max_sync(0xffffffffu, lane < blockDim.x / 32 ? partials[lane] : 0u);
}

// rounded[rows, padded] from x[rows, cols], with zeroes past `cols`, and scales[rows] of F16 and E4M3, a
// block a row.
// Reads 4 bytes a value (twice where there are scales, mostly from the cache) and writes 2, or 1.
KERNEL(round_rows, 256,
       (const float* x, Rounded<FORMAT>::Number* rounded, float* scales, int cols, int padded)) {
  using Of = Rounded<FORMAT>;
  __shared__ u32 partials[32];
  const float* row = x + (i64)blockIdx.x * cols;
  u32 most = 0;
  if (Of::SCALED) {
    for (int i = threadIdx.x; i < cols; i += blockDim.x) {
      most = max(most, __float_as_uint(row[i]) & 0x7fffffffu);
    }
    most = block_largest(most, partials);
  }
  // The scale is 2^(exponent - 127), the factor its inverse.
  int exponent = Of::exponent(most);
  float inverse = __uint_as_float((u32)(254 - exponent) << 23);
  for (int i = threadIdx.x; i < padded; i += blockDim.x) {
    float v = i < cols ? row[i] * inverse : 0.0f;
    rounded[(i64)blockIdx.x * padded + i] = Of::round(v);
  }
  if (Of::SCALED && threadIdx.x == 0) scales[blockIdx.x] = __uint_as_float((u32)exponent << 23);
}

// dst[rows, n] (+)= scales[rows] * weights[n] * products[rows, n] + bias[n], a thread a value. `weights`
// and `bias` may be null.
KERNEL(scale_rows, 256,
       (float* dst, const float* products, const float* scales, const float* weights,
        const float* bias, int rows, int n, int accumulate)) {
  i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= (i64)rows * n) return;
  float product = weights ? weights[i % n] * products[i] : products[i];
  float result = scales[i / n] * product + (bias ? bias[i % n] : 0.0f);
  dst[i] = accumulate ? dst[i] + result : result;
}
