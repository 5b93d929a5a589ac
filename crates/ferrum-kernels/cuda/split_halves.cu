// Brings activations into the form that products with F16 and BF16 weights ask for. Compiled for
// both, with `FORMAT` defined as the name.
#include "halves.cuh"

#ifndef FORMAT
#define FORMAT F16
#endif

// records[rows, ceil(cols / 32)] from x[rows, cols], with zeroes past `cols`; a warp for each
// record. Reads 4 bytes a value and writes 4.5 (F16) or 6.5: of 512 x 4096 values 8.4 + 9.4 MB.
template <class F>
DEVICE void split_group(const float* x, u8* records, int rows, int cols) {
  using Of = HalvesOf<F>;
  i64 at = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / 32;
  int groups = (cols + GROUP - 1) / GROUP, lane = threadIdx.x % 32;
  if (at >= (i64)rows * groups) return;
  int col = (int)(at % groups) * GROUP + lane;
  float v = col < cols ? x[at / groups * cols + col] : 0.0f;
  u32 largest = __float_as_uint(v) & 0x7fffffff;
#pragma unroll
  for (int m = 16; m > 0; m >>= 1) {
    u32 other = __shfl_xor_sync(0xffffffffu, largest, m);
    largest = other > largest ? other : largest;
  }
  // The scale is 2^(exponent - 127), the factor its inverse.
  int exponent = Of::exponent(largest);
  auto* record = reinterpret_cast<HalvesRecord<Of::TERMS>*>(records) + at;
  float rest = v * __uint_as_float((u32)(254 - exponent) << 23);
#pragma unroll
  for (int i = 0; i < Of::TERMS; i++) {
    u16 term = Of::round(rest);
    record->terms[i][fragment_place(lane)] = term;
    rest -= F::value(reinterpret_cast<u8*>(&term));
  }
  if (lane == 0) record->scale = __uint_as_float((u32)exponent << 23);
}

KERNEL(split, 256, (const float* x, u8* records, int rows, int cols)) {
  split_group<FORMAT>(x, records, rows, cols);
}
