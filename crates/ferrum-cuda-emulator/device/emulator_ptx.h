// The names of ptx.cuh's device branch in plain C++. Fragment layouts are those of the PTX ISA,
// section "Warp Level Matrix Instructions"; g = lane / 4 is a lane's group, t = lane % 4 its place
// in the group.
#pragma once
#include "emulator_warp.h"

// --- conversions; a NaN becomes the card's canonical one

inline float f16_to_f32(unsigned short h) { return (float)emulator::bits_as<_Float16>(h); }
inline unsigned short f32_to_f16(float f) {
  return f != f ? 0x7fff : emulator::bits_as<unsigned short>((_Float16)f);
}
inline float bf16_to_f32(unsigned short b) { return __uint_as_float((unsigned)b << 16); }
namespace emulator {
inline unsigned short f32_to_bf16(float f) {
  if (f != f) return 0x7fff;
  unsigned u = __float_as_uint(f);
  return (unsigned short)((u + 0x7fff + (u >> 16 & 1)) >> 16);  // to nearest, ties to even
}
}  // namespace emulator
inline unsigned f16x2(float low, float high) {
  return (unsigned)f32_to_f16(high) << 16 | f32_to_f16(low);
}
inline unsigned bf16x2(float low, float high) {
  return (unsigned)emulator::f32_to_bf16(high) << 16 | emulator::f32_to_bf16(low);
}
namespace emulator {
// In double precision products and differences of half precision are exact: they are rounded once.
template <class Operation>
inline unsigned f16x2_of(unsigned a, unsigned b, Operation operation) {
  unsigned r = 0;
  for (int i = 0; i < 2; i++) {
    double x = f16_to_f32((unsigned short)(a >> 16 * i));
    double y = f16_to_f32((unsigned short)(b >> 16 * i));
    double z = operation(x, y);
    unsigned bits = z != z ? 0x7fffu : bits_as<unsigned short>((_Float16)z);
    r |= bits << 16 * i;
  }
  return r;
}
}  // namespace emulator
inline unsigned mul_f16x2(unsigned a, unsigned b) {
  return emulator::f16x2_of(a, b, [](double x, double y) { return x * y; });
}
inline unsigned sub_f16x2(unsigned a, unsigned b) {
  return emulator::f16x2_of(a, b, [](double x, double y) { return x - y; });
}

// --- copies from global to shared memory: the bytes arrive at the wait and no earlier

inline void cp_async16(void* shared, const void* global, int line = __builtin_LINE()) {
  emulator_copy_async(shared, global, true, line);
}
inline void cp_async16_or_zero(void* shared, const void* global, bool valid,
                               int line = __builtin_LINE()) {
  emulator_copy_async(shared, global, valid, line);
}
inline void cp_async_commit() { emulator_copy_commit(); }
template <int N>
inline void cp_async_wait() {
  emulator_copy_wait(N);
}

// --- ldmatrix: each lane gives a row's address; lane l gets numbers 2t and 2t + 1 of row g
// (transposed: of column g) of every matrix

namespace emulator {
struct RowAddress {
  const unsigned short* row;
};
inline const unsigned short* matrix_row(const Slot* slots, int matrix, int row) {
  return given_by<RowAddress>(slots, (unsigned)(8 * matrix + row)).row;
}
template <int Matrices, bool Transposed>
inline void ldmatrix(unsigned* r, const void* shared_row, const char* what, int line) {
  unsigned lane = emulator_thread->lane;
  if (lane < 8 * Matrices) emulator_require_matrix_row(shared_row, what, line);
  RowAddress address{static_cast<const unsigned short*>(shared_row)};
  const Slot* slots = emulator_collective(~0u, &address, sizeof address, what, line, nullptr);
  int g = (int)lane / 4, t = (int)lane % 4;
  for (int m = 0; m < Matrices; m++) {
    unsigned low = Transposed ? matrix_row(slots, m, 2 * t)[g] : matrix_row(slots, m, g)[2 * t];
    unsigned high =
        Transposed ? matrix_row(slots, m, 2 * t + 1)[g] : matrix_row(slots, m, g)[2 * t + 1];
    r[m] = high << 16 | low;
  }
}
}  // namespace emulator

#define FERRUM_LDMATRIX(name, matrices, transposed)                                         \
  inline void name(unsigned* r, const void* shared_row, int line = __builtin_LINE()) {      \
    emulator::ldmatrix<matrices, transposed>(r, shared_row, #name, line);                   \
  }
FERRUM_LDMATRIX(ldmatrix_x1, 1, false)
FERRUM_LDMATRIX(ldmatrix_x2, 2, false)
FERRUM_LDMATRIX(ldmatrix_x4, 4, false)
FERRUM_LDMATRIX(ldmatrix_x1_trans, 1, true)
FERRUM_LDMATRIX(ldmatrix_x2_trans, 2, true)
FERRUM_LDMATRIX(ldmatrix_x4_trans, 4, true)
#undef FERRUM_LDMATRIX

// --- mma: the lane that comes last multiplies the whole matrices (in the driver: tensor.cpp)

namespace emulator {

template <class Sum>
inline void mma(Sum* c, const unsigned* a, const unsigned* b, const char* what, int line,
                Leader leader) {
  Fragments<Sum> own{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, {}};
  const Slot* slots = emulator_collective(~0u, &own, sizeof own, what, line, leader);
  auto result = given_by<Fragments<Sum>>(slots, emulator_thread->lane);
  for (int i = 0; i < 4; i++) c[i] += result.product[i];
}

}  // namespace emulator

inline void mma_f16(float* c, const unsigned* a, const unsigned* b, int line = __builtin_LINE()) {
  emulator::mma(c, a, b, "mma_f16", line, emulator_multiply_f16);
}
inline void mma_bf16(float* c, const unsigned* a, const unsigned* b, int line = __builtin_LINE()) {
  emulator::mma(c, a, b, "mma_bf16", line, emulator_multiply_bf16);
}
inline void mma_s8(int* c, const unsigned* a, const unsigned* b, int line = __builtin_LINE()) {
  emulator::mma(c, a, b, "mma_s8", line, emulator_multiply_s8);
}
inline void mma_s8_k16(int* c, const unsigned* a, unsigned b, int line = __builtin_LINE()) {
  unsigned a4[4] = {a[0], a[1], 0, 0}, b2[2] = {b, 0};
  emulator::mma(c, a4, b2, "mma_s8_k16", line, emulator_multiply_s8_k16);
}
