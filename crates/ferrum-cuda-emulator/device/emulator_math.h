// CUDA's arithmetic functions for one thread. <math.h> has the rest of them by the same names
// (expf, fmaxf, erff, tanhf, ...).
#pragma once
#include "emulator_types.h"

#include <math.h>
#include <string.h>
#include <type_traits>

namespace emulator {
// The same bits as another type.
template <class To, class From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "bits_as keeps the size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
template <class T>
inline T clamp_to(double value) {  // conversions to integers saturate on the card, and NaN is 0
  const double low = (double)(std::is_signed_v<T> ? -ldexp(1, 8 * sizeof(T) - 1) : 0);
  const double high = ldexp(1, 8 * sizeof(T) - std::is_signed_v<T>) - 1;
  return value != value ? T(0) : value <= low ? T(low) : value >= high ? T(high) : T(value);
}
}  // namespace emulator

// --- minimum and maximum, overloaded over the number types as in CUDA
template <class A, class B>
inline std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return fmin((T)a, (T)b);
  return (T)b < (T)a ? (T)b : (T)a;
}
template <class A, class B>
inline std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return fmax((T)a, (T)b);
  return (T)a < (T)b ? (T)b : (T)a;
}

// --- fast and explicitly rounded forms; the fast ones are exact here
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __frsqrt_rn(float x) { return (float)(1.0 / sqrt((double)x)); }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return powf(10.0f, x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __log10f(float x) { return log10f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanf(float x) { return tanf(x); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
// Products and sums that are never fused: the barrier keeps g++ from contracting them.
inline float __fmul_rn(float a, float b) {
  float r = a * b;
  asm("" : "+x"(r));
  return r;
}
inline float __fadd_rn(float a, float b) {
  asm("" : "+x"(a), "+x"(b));
  return a + b;
}
inline float __fsub_rn(float a, float b) { return __fadd_rn(a, -b); }
inline float sinpif(float x) { return (float)sin(M_PI * (double)x); }
inline float cospif(float x) { return (float)cos(M_PI * (double)x); }
inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678f); }
inline void __sincosf(float x, float* s, float* c) {
  *s = sinf(x);
  *c = cosf(x);
}

// --- bits
inline unsigned __float_as_uint(float x) { return emulator::bits_as<unsigned>(x); }
inline int __float_as_int(float x) { return emulator::bits_as<int>(x); }
inline float __uint_as_float(unsigned x) { return emulator::bits_as<float>(x); }
inline float __int_as_float(int x) { return emulator::bits_as<float>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; i++) r |= (x >> i & 1) << (31 - i);
  return r;
}
// A 32-bit window of high:low, after a shift modulo 32.
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return (unsigned)((((unsigned long long)high << 32 | low) << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return (unsigned)(((unsigned long long)high << 32 | low) >> (shift & 31));
}
// Byte i of the result is the byte of y:x that nibble i of `selector` names; bit 3 of the nibble
// asks for that byte's sign instead.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  unsigned long long from = (unsigned long long)y << 32 | x;
  unsigned r = 0;
  for (int i = 0; i < 4; i++) {
    unsigned nibble = selector >> (4 * i) & 0xf;
    unsigned byte = (unsigned)(from >> (8 * (nibble & 7))) & 0xff;
    if (nibble & 8) byte = byte & 0x80 ? 0xff : 0;
    r |= byte << (8 * i);
  }
  return r;
}

// --- integers
inline int __dp4a(int a, int b, int c) {
  unsigned sum = (unsigned)c;
  for (int i = 0; i < 4; i++)
    sum += (unsigned)((int)(signed char)(a >> (8 * i)) * (int)(signed char)(b >> (8 * i)));
  return (int)sum;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 4; i++) c += (a >> (8 * i) & 0xff) * (b >> (8 * i) & 0xff);
  return c;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return (unsigned)((unsigned long long)a * b >> 32);
}
inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }

// --- numbers to integers: rn nearest even, rz to zero, rd down, ru up
inline int __float2int_rn(float x) { return emulator::clamp_to<int>(rint((double)x)); }
inline int __float2int_rz(float x) { return emulator::clamp_to<int>(trunc((double)x)); }
inline int __float2int_rd(float x) { return emulator::clamp_to<int>(floor((double)x)); }
inline int __float2int_ru(float x) { return emulator::clamp_to<int>(ceil((double)x)); }
inline unsigned __float2uint_rn(float x) { return emulator::clamp_to<unsigned>(rint((double)x)); }
inline unsigned __float2uint_rz(float x) { return emulator::clamp_to<unsigned>(trunc((double)x)); }
inline float __int2float_rn(int x) { return (float)x; }
inline float __uint2float_rn(unsigned x) { return (float)x; }

// --- loads and stores with a caching hint
template <class T> inline T __ldg(const T* p) { return *p; }
template <class T> inline T __ldca(const T* p) { return *p; }
template <class T> inline T __ldcg(const T* p) { return *p; }
template <class T> inline T __ldcs(const T* p) { return *p; }
template <class T> inline T __ldlu(const T* p) { return *p; }
template <class T> inline void __stcg(T* p, T v) { *p = v; }
template <class T> inline void __stcs(T* p, T v) { *p = v; }
template <class T> inline void __stwb(T* p, T v) { *p = v; }

// --- atomics: emulated threads switch only at barriers and collectives, so plain code is atomic
namespace emulator {
struct Atomic {
  Atomic() { *(volatile int*)&emulator_in_atomic = 1; }
  ~Atomic() { *(volatile int*)&emulator_in_atomic = 0; }
};
template <class T> struct Same { using Type = T; };
template <class T> using NotDeduced = typename Same<T>::Type;
}  // namespace emulator
#define FERRUM_ATOMIC(name, expression)                            \
  template <class T>                                               \
  inline T name(T* p, emulator::NotDeduced<T> v) {                 \
    emulator::Atomic atomic;                                       \
    T old = *p;                                                    \
    *p = (T)(expression);                                          \
    return old;                                                    \
  }
FERRUM_ATOMIC(atomicAdd, old + v)
FERRUM_ATOMIC(atomicSub, old - v)
FERRUM_ATOMIC(atomicExch, v)
FERRUM_ATOMIC(atomicMin, v < old ? v : old)
FERRUM_ATOMIC(atomicMax, old < v ? v : old)
FERRUM_ATOMIC(atomicAnd, old & v)
FERRUM_ATOMIC(atomicOr, old | v)
FERRUM_ATOMIC(atomicXor, old ^ v)
FERRUM_ATOMIC(atomicInc, old >= v ? 0 : old + 1)
FERRUM_ATOMIC(atomicDec, old == 0 || old > v ? v : old - 1)
#undef FERRUM_ATOMIC
template <class T>
inline T atomicCAS(T* p, emulator::NotDeduced<T> expected, emulator::NotDeduced<T> v) {
  emulator::Atomic atomic;
  T old = *p;
  if (old == expected) *p = v;
  return old;
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __nanosleep(unsigned) {}
