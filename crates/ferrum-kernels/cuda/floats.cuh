// Weights whose values are single numbers. Their rows lie in the plane `low`, each padded with
// zeroes to whole groups of 32 columns.
#pragma once
#include "linear.cuh"

// What `FORMAT` may be. BYTES: of a value.
struct F32 {
  static constexpr int BYTES = 4;
  static DEVICE float value(const u8* p) { return *reinterpret_cast<const float*>(p); }
};

struct F16 {
  static constexpr int BYTES = 2;
  static DEVICE float value(const u8* p) { return load_f16(p); }
};

struct BF16 {
  static constexpr int BYTES = 2;
  static DEVICE float value(const u8* p) { return bf16_to_f32(load_u16(p)); }
};

// Eight values that are aligned to their size.
template <class F>
DEVICE void load_eight(const u8* p, float values[8]) {
  u32 words[2 * F::BYTES];
  load_words<2 * F::BYTES>(words, p);
#pragma unroll
  for (int i = 0; i < 8; i++) values[i] = F::value(reinterpret_cast<u8*>(words) + F::BYTES * i);
}

// Eight columns of a row of an input of `cols`, zero past the last.
DEVICE void load_input(const float* row, int col, int cols, float values[8]) {
  if (cols % 4 == 0 && col + 8 <= cols) {
    float4 a = *reinterpret_cast<const float4*>(row + col);
    float4 b = *reinterpret_cast<const float4*>(row + col + 4);
    values[0] = a.x, values[1] = a.y, values[2] = a.z, values[3] = a.w;
    values[4] = b.x, values[5] = b.y, values[6] = b.z, values[7] = b.w;
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; i++) values[i] = col + i < cols ? row[col + i] : 0.0f;
}
