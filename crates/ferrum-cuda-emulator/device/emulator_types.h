// CUDA's vector types, with CUDA's alignments.
#pragma once
#include "emulator_abi.h"

typedef emulator::Index3 uint3;

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define FERRUM_VECTORS(name, scalar, align2, align4)                                             \
  struct alignas(align2) name##2 {                                                               \
    scalar x, y;                                                                                 \
  };                                                                                             \
  struct name##3 {                                                                               \
    scalar x, y, z;                                                                              \
  };                                                                                             \
  struct alignas(align4) name##4 {                                                               \
    scalar x, y, z, w;                                                                           \
  };                                                                                             \
  inline name##2 make_##name##2(scalar x, scalar y) { return {x, y}; }                           \
  inline name##3 make_##name##3(scalar x, scalar y, scalar z) { return {x, y, z}; }              \
  inline name##4 make_##name##4(scalar x, scalar y, scalar z, scalar w) { return {x, y, z, w}; }

FERRUM_VECTORS(char, signed char, 2, 4)
FERRUM_VECTORS(uchar, unsigned char, 2, 4)
FERRUM_VECTORS(short, short, 4, 8)
FERRUM_VECTORS(ushort, unsigned short, 4, 8)
FERRUM_VECTORS(int, int, 8, 16)
FERRUM_VECTORS(float, float, 8, 16)
FERRUM_VECTORS(longlong, long long, 16, 16)
FERRUM_VECTORS(ulonglong, unsigned long long, 16, 16)
FERRUM_VECTORS(double, double, 16, 16)

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
#undef FERRUM_VECTORS
