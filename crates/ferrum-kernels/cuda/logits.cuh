// Rows of logits, for what a block of threads does with each of them.
//
// Weights are whole numbers of 2^-40, whose sums are the same in any order, so that a result does not
// depend on how the card runs.
#pragma once
#include "ptx.cuh"

constexpr int THREADS = 1024, WARPS = THREADS / 32;
constexpr u32 ALL = 0xffffffffu;
// Of a weight. A sum of 2^22 of them fits in 64 bits.
constexpr float WEIGHT_UNITS = 1099511627776.0f;

// Numbers of a row in `DrawBatch`, and of an adjusted logit.
constexpr int DRAW_INTS = 8, DRAW_FLOATS = 3, ADJUST_FLOATS = 3;
// Of bits that tell the tokens whose logits are adjusted from nearly all others: one for each token of
// a vocabulary of 65536. Those of larger ones share bits, and are searched for in vain now and then.
constexpr int ADJUST_WORDS = 2048;

// Logits of a row that are adjusted, in shared memory.
struct Adjusted {
  u32 bits[ADJUST_WORDS];
  // [count], growing.
  const int* tokens;
  // [count, ADJUST_FLOATS]
  const float* values;
  int count;
};

struct Row {
  const float* values;
  const u32* mask;
  // None where no logit is adjusted.
  const Adjusted* adjusted;
  float scale, cap;
  int vocab;
};

// What becomes of a logit whose token may be among the adjusted ones: `Adjustment::apply`. Nothing is
// fused, so that a card rounds as a host does.
DEVICE float adjust(const Adjusted& adjusted, int token, float x) {
  int low = 0, high = adjusted.count;
  while (low < high) {
    int middle = (low + high) / 2;
    if (adjusted.tokens[middle] < token) low = middle + 1;
    else high = middle;
  }
  if (low == adjusted.count || adjusted.tokens[low] != token) return x;
  const float* by = adjusted.values + ADJUST_FLOATS * low;
  x = __fadd_rn(x, by[0]);
  x = x > 0.0f ? __fdiv_rn(x, by[1]) : __fmul_rn(x, by[1]);
  return __fsub_rn(x, by[2]);
}

// The logit that becomes of a value: minus infinity where the token may not come; but NaN stays, so that
// it is found.
DEVICE float logit(const Row& row, int token, float value) {
  float x = row.scale * value;
  if (row.cap > 0.0f) x = row.cap * tanhf(x / row.cap);
  if (row.adjusted != nullptr && row.adjusted->bits[token / 32 % ADJUST_WORDS] >> (token % 32) & 1)
    x = adjust(*row.adjusted, token, x);
  bool allowed = row.mask == nullptr || (row.mask[token / 32] >> (token % 32) & 1);
  // The two zeroes are equal.
  return allowed || x != x ? x + 0.0f : -INFINITY;
}

DEVICE float logit(const Row& row, int token) { return logit(row, token, row.values[token]); }

// A number that grows with the float.
DEVICE u32 order(float x) {
  u32 bits = __float_as_uint(x);
  return bits ^ (bits >> 31 ? ALL : 0x80000000u);
}

// The likelier the higher, and of equals the lower token. No two have the same.
DEVICE u64 rank(float x, int token) { return (u64)order(x) << 32 | (u32)~token; }

DEVICE u64 weight(float difference) { return (u64)(expf(difference) * WEIGHT_UNITS); }

// The largest of all threads' numbers, the same in each.
DEVICE u64 block_max(u64 v, u64* partials) {
#pragma unroll
  for (int m = 16; m > 0; m >>= 1) {
    u64 other = __shfl_xor_sync(ALL, v, m);
    v = other > v ? other : v;
  }
  if (threadIdx.x % 32 == 0) partials[threadIdx.x / 32] = v;
  __syncthreads();
  v = partials[threadIdx.x % 32];
#pragma unroll
  for (int m = 16; m > 0; m >>= 1) {
    u64 other = __shfl_xor_sync(ALL, v, m);
    v = other > v ? other : v;
  }
  __syncthreads();
  return v;
}

// The sum over the lanes up to this one.
DEVICE u64 sum_so_far(u64 v) {
#pragma unroll
  for (int by = 1; by < 32; by <<= 1) {
    u64 other = __shfl_up_sync(ALL, v, by);
    if ((int)(threadIdx.x % 32) >= by) v += other;
  }
  return v;
}
