// Weights whose values are single numbers. Their rows lie in the plane `low`, each padded with
// zeroes to whole groups of 32 columns. Of E4M3 the plane `scales` has a number for each row.
#pragma once
#include "e4m3.cuh"
#include "linear.cuh"

// What formats have in common whose values are the numbers: rows have no scale.
template <class F>
struct Numbers {
  static DEVICE float of_eight(const u32* words, int i) {
    return F::value(reinterpret_cast<const u8*>(words) + F::BYTES * i);
  }
  static DEVICE float scale(const Planes&, i64) { return 1.0f; }
};

// What `FORMAT` may be. BYTES: of a value. What products of a row come to is to be multiplied with `scale`.
struct F32 : Numbers<F32> {
  static constexpr int BYTES = 4;
  static DEVICE float value(const u8* p) { return *reinterpret_cast<const float*>(p); }
};

struct F16 : Numbers<F16> {
  static constexpr int BYTES = 2;
  static DEVICE float value(const u8* p) { return load_f16(p); }
};

struct BF16 : Numbers<BF16> {
  static constexpr int BYTES = 2;
  static DEVICE float value(const u8* p) { return bf16_to_f32(load_u16(p)); }
};

// Values are those of `e4m3_as_f16`.
struct F8_E4M3 {
  static constexpr int BYTES = 1;
  static DEVICE float value(const u8* p) { return low_f16(e4m3_as_f16(*p, 0)); }
  static DEVICE float of_eight(const u32* words, int i) {
    u32 pair = e4m3_as_f16(words[i / 4], i / 2 % 2);
    return i % 2 == 0 ? low_f16(pair) : high_f16(pair);
  }
  static DEVICE float scale(const Planes& planes, i64 row) {
    return E4M3_OF_F16 * reinterpret_cast<const float*>(planes.scales)[row];
  }
};

// Eight values that are aligned to their size.
template <class F>
DEVICE void load_eight(const u8* p, float values[8]) {
  u32 words[2 * F::BYTES];
  load_words<2 * F::BYTES>(words, p);
#pragma unroll
  for (int i = 0; i < 8; i++) values[i] = F::of_eight(words, i);
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
