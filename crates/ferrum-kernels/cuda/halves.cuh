// Activations for products with F16, BF16 and E4M3 weights: each value as a sum of numbers of the
// weight's own type, or of F16, so that the tensor cores' products are exact.
//
// Two F16 numbers have 22 bits between them. They need a scale, a power of two for each 32 columns,
// as their exponents are few. Three BF16 numbers have 24 bits and need none.
#pragma once
#include "floats.cuh"

// 32 columns of one token, of the number type and so many terms; the largest terms come first.
// Eight records lie in different banks of shared memory.
template <int TERMS>
struct HalvesRecord {
  u16 terms[TERMS][GROUP];
  float scale;
  float unused[3];
};

// Where a term has the value of column `c` of 32. A lane of a fragment has four words of two
// columns of a group; so placed, they are eight neighbouring columns, and a lane reads those of a
// weight at once.
DEVICE int fragment_place(int c) {
  int lane = c / 8, word = c / 2 % 4;
  return 8 * word + 2 * lane + c % 2;
}

// The type whose numbers meet weights in `F`, and eight neighbouring columns of these as words of two.
template <class F>
struct HalvesOf;

struct StoredHalves {
  static DEVICE void halves(const u32 stored[4], u32 words[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) words[i] = stored[i];
  }
};

template <>
struct HalvesOf<F16> : StoredHalves {
  using Number = u16;
  static constexpr int TERMS = 2;
  static constexpr bool SCALED = true;
  static DEVICE u16 round(float v) { return f32_to_f16(v); }
  static DEVICE void mma(float c[4], const u32 a[4], const u32 b[2]) { mma_f16(c, a, b); }
  // That of the scale, biased: the largest value comes to lie at 2^14, below what F16 can hold.
  static DEVICE int exponent(u32 largest) { return max((int)(largest >> 23), 15) - 14; }
};

template <>
struct HalvesOf<BF16> : StoredHalves {
  using Number = u16;
  static constexpr int TERMS = 3;
  static constexpr bool SCALED = false;
  static DEVICE u16 round(float v) { return (u16)(bf16x2(v, 0.0f) & 0xffff); }
  static DEVICE void mma(float c[4], const u32 a[4], const u32 b[2]) { mma_bf16(c, a, b); }
  static DEVICE int exponent(u32) { return 127; }
};

template <>
struct HalvesOf<F8_E4M3> : HalvesOf<F16> {
  static DEVICE void halves(const u32 stored[2], u32 words[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) words[i] = e4m3_as_f16(stored[i / 2], i % 2);
  }
};
