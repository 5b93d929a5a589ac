// Floats of eight bits, kept as their bits: `E4m3` of the host. By whole numbers and single
// precision, as only compute capability 8.9 has instructions for them.
#pragma once
#include "ptx.cuh"

constexpr u32 E4M3_NAN = 0x7f;
constexpr u32 E4M3_BIAS = (127 - 7) << 3;  // exponents of single precision are biased by more

DEVICE float e4m3_to_f32(u8 bits) {
  // With the exponent as it is the number is too small by 2^120, a subnormal one included.
  u32 magnitude = bits & 0x7fu, sign = (u32)(bits & 0x80) << 24;
  float x = __uint_as_float(magnitude << 20) * __uint_as_float((127u + 120u) << 23);
  u32 number = magnitude == E4M3_NAN ? 0x7fffffffu : __float_as_uint(x);
  return __uint_as_float(number | sign);
}

// The first or second pair of a word's codes as F16 numbers, which are 2^-8 of theirs: the exponent is as it
// is, and that of F16 is biased by eight more. Codes that are no number do not stay what they are.
constexpr float E4M3_OF_F16 = 256.0f;
DEVICE u32 e4m3_as_f16(u32 codes, int pair) {
  u32 high = __byte_perm(codes, 0, pair == 0 ? 0x1404 : 0x3424);
  return (high & 0x80008000u) | (high & 0x7f007f00u) >> 1;
}

// To nearest, ties to even; what is beyond the largest becomes the largest, and what is not finite no
// number.
DEVICE u8 f32_to_e4m3(float x) {
  u32 bits = __float_as_uint(x) & 0x7fffffffu, sign = __float_as_uint(x) >> 24 & 0x80u, code;
  if (bits >= 0x7f800000u) {
    code = E4M3_NAN;
  } else if (bits < 0x3c800000u) {
    // Below 2^-6 there are only multiples of 2^-9: the last places of numbers from 2^14 on.
    const float whole = 16384.0f;
    code = __float_as_uint(__uint_as_float(bits) + whole) - __float_as_uint(whole);
  } else {
    const u32 largest = 0x43e00000u;  // 448
    bits = bits < largest ? bits : largest;
    code = ((bits + 0x7ffffu + (bits >> 20 & 1u)) >> 20) - E4M3_BIAS;
  }
  return (u8)(sign | code);
}
