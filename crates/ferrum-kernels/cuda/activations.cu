// Brings activations into the form that the linears of a kind of weight ask for.
#include "activations.cuh"

// Below this largest magnitude (where its inverse would overflow) a group counts as zero.
constexpr float NEGLIGIBLE = 1e-30f;

// The largest over eight neighbouring lanes; as integers, because there a NaN is the largest.
DEVICE u32 largest_of_eight(u32 v) {
#pragma unroll
  for (int m = 4; m > 0; m >>= 1) {
    u32 other = __shfl_xor_sync(0xffffffffu, v, m);
    v = other > v ? other : v;
  }
  return v;
}

// Four values as signed bytes.
DEVICE u32 round_four(float4 x, float factor) {
  u32 a = (u32)__float2int_rn(x.x * factor) & 255, b = (u32)__float2int_rn(x.y * factor) & 255;
  u32 c = (u32)__float2int_rn(x.z * factor) & 255, d = (u32)__float2int_rn(x.w * factor) & 255;
  return a | b << 8 | c << 16 | d << 24;
}

// records[rows, ceil(cols / 64)] from x[rows, cols]; `cols` is a multiple of 32, and columns past
// the last are zero. Sixteen lanes make a record. Reads 4 bytes a value and writes 1.25: of
// 512 x 4096 values 8.4 + 2.6 MB.
//
// A value that is not a number makes the scale one, so that it is seen in every product.
KERNEL(quantize, 256, (const float* x, Record* records, int rows, int cols)) {
  int per_row = (cols + RECORD_COLUMNS - 1) / RECORD_COLUMNS;
  i64 record = (i64)blockIdx.x * 16 + threadIdx.x / 16, count = (i64)rows * per_row;
  // The lanes of a warp stay together for the shuffles; those past the end work on the last.
  bool inside = record < count;
  record = inside ? record : count - 1;
  int lane = threadIdx.x % 16, col = (int)(record % per_row) * RECORD_COLUMNS + 4 * lane;
  float4 v = {0, 0, 0, 0};
  if (col < cols) v = *reinterpret_cast<const float4*>(x + record / per_row * cols + col);

  float most = fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
  // `fmaxf` passes over what is not a number.
  bool numbers = v.x == v.x && v.y == v.y && v.z == v.z && v.w == v.w;
  float largest = __uint_as_float(largest_of_eight(numbers ? __float_as_uint(most) : 0x7fffffffu));
  float factor = largest > NEGLIGIBLE ? 127.0f / largest : 0.0f;
  float scale = largest <= NEGLIGIBLE ? 0.0f : largest / 127.0f;
  u32 codes = round_four(v, factor);

  // Lanes 0-3 of the eight have the first 16 values.
  int sum = __dp4a((int)codes, 0x01010101, 0);
  sum += __shfl_xor_sync(0xffffffffu, sum, 1);
  sum += __shfl_xor_sync(0xffffffffu, sum, 2);
  u32 second = (u32)__shfl_xor_sync(0xffffffffu, sum, 4);
  if (!inside) return;
  reinterpret_cast<u32*>(records[record].values)[lane] = codes;
  if (lane % 8 == 0) records[record].groups[lane / 8] = {scale, ((u32)sum & 0xffff) | second << 16};
}
