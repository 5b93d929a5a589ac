// What CUDA C++ does not say without NVIDIA's headers: number types, entry points, conversions, and
// every instruction that is written in PTX. Kernels include this file and no other, so that NVRTC
// needs no toolkit. The emulated driver has the same names in plain C++ (`emulator.h`).
#pragma once

typedef signed char i8;
typedef unsigned char u8;
typedef short i16;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

#ifdef FERRUM_EMULATOR
#include "emulator.h"
#else

#define DEVICE __device__ __forceinline__
#define INFINITY __int_as_float(0x7f800000)
// An entry point: `KERNEL(scale, 256, (float* x, int n)) { … }`, of at most so many threads a block.
#define KERNEL(name, threads, parameters) \
  extern "C" __global__ void __launch_bounds__(threads) name parameters
// The same, for a kernel that needs many registers: they are shared out for so many blocks at once on
// a multiprocessor. Left to itself, the compiler aims for one more and spills a register or two.
#define KERNEL_RESIDENT(name, threads, blocks, parameters) \
  extern "C" __global__ void __launch_bounds__(threads, blocks) name parameters
// The shared memory that a launch asks for, as an array of a type; at most once in a kernel.
#define DYNAMIC_SHARED(type, name) \
  extern __shared__ __align__(128) u8 dynamic_shared[]; \
  type* name = reinterpret_cast<type*>(dynamic_shared)

// --- conversions; half and bfloat16 numbers are kept as their bits

DEVICE float f16_to_f32(u16 h) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
  return f;
}
DEVICE u16 f32_to_f16(float f) {
  u16 h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
}
DEVICE float bf16_to_f32(u16 b) { return __uint_as_float((u32)b << 16); }
// Two numbers, rounded to nearest; `low` in the lower half.
DEVICE u32 f16x2(float low, float high) {
  u32 r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
DEVICE u32 bf16x2(float low, float high) {
  u32 r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
// Two F16 products or differences, rounded to nearest.
#define FERRUM_F16X2(name, instruction)                                         \
  DEVICE u32 name(u32 a, u32 b) {                                               \
    u32 r;                                                                      \
    asm(instruction ".rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));        \
    return r;                                                                   \
  }
FERRUM_F16X2(mul_f16x2, "mul")
FERRUM_F16X2(sub_f16x2, "sub")

// --- copies from global to shared memory that run beside the threads; 16 bytes, aligned

DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
DEVICE void cp_async16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)),
               "l"(global) : "memory");
}
// The same where `valid`, else 16 zero bytes (`global` must still be a readable address).
DEVICE void cp_async16_or_zero(void* shared, const void* global, bool valid) {
  int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(bytes) : "memory");
}
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most `N` of the newest groups are under way.
template <int N>
DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// --- tensor cores: fragments as in the PTX ISA, section "Warp Level Matrix Instructions"

// Four 8x8 matrices of 16-bit numbers; lane `l` gives the address of row `l % 8` of matrix `l / 8`.
DEVICE void ldmatrix_x4(u32 r[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row)) : "memory");
}
// Two of them, transposed.
DEVICE void ldmatrix_x2_trans(u32 r[2], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(shared_row)) : "memory");
}
// Four, transposed.
DEVICE void ldmatrix_x4_trans(u32 r[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row)) : "memory");
}
// c[16x8] += a[16x16] · b[16x8]
#define FERRUM_MMA_16816(name, type)                                                           \
  DEVICE void name(float c[4], const u32 a[4], const u32 b[2]) {                               \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 "                \
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                       \
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                              \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));          \
  }
FERRUM_MMA_16816(mma_f16, "f16")
FERRUM_MMA_16816(mma_bf16, "bf16")
// c[16x8] += a[16x32] · b[32x8] of signed bytes
DEVICE void mma_s8(i32 c[4], const u32 a[4], const u32 b[2]) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
               "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// c[16x8] += a[16x16] · b[16x8] of signed bytes
DEVICE void mma_s8_k16(i32 c[4], const u32 a[2], u32 b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 "
               "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(b));
}
#endif

// --- sums and maxima over the 32 lanes of a warp, the same in every lane

DEVICE float warp_sum(float v) {
#pragma unroll
  for (int m = 16; m > 0; m >>= 1) v += __shfl_xor_sync(0xffffffffu, v, m);
  return v;
}
DEVICE float warp_max(float v) {
#pragma unroll
  for (int m = 16; m > 0; m >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, m));
  return v;
}
