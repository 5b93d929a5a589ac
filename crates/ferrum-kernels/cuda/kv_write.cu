// Writes a step's keys and values into their slots: `cache[slots[t], :] = round(src[t, :])`, as
// `[blocks, kv_heads, KV_BLOCK, head_dim]`. Of tokens with one slot the last one's values stay.
//
// Reference shape, 2048 tokens with 8 heads of 128 values to F16: reads 16.8 MB, writes 8.4 MB.
#include "attention.cuh"

// Row number of head `head` at `slot` of a cache.
DEVICE i64 cache_row(int slot, int head, int kv_heads) {
  return ((i64)(slot / KV_BLOCK) * kv_heads + head) * KV_BLOCK + slot % KV_BLOCK;
}

// Whether a later token of the step has this block's slot. By the whole block.
DEVICE bool overwritten(const int* slots) {
  int same = 0;
  for (int t = blockIdx.x + 1 + threadIdx.x; t < gridDim.x; t += blockDim.x) {
    same |= slots[t] == slots[blockIdx.x];
  }
  return __syncthreads_or(same);
}

// Block (token, keys or values, which there may be none of), a thread for each value in turn. `k`,
// `v`: [T, kv_heads, head_dim]
template <class T, class Round>
DEVICE void kv_write(T* k_cache, T* v_cache, const float* k, const float* v, const int* slots,
                     int kv_heads, int head_dim, const Round& round) {
  int token = blockIdx.x, width = kv_heads * head_dim, slot = slots[token];
  if (overwritten(slots)) return;
  const float* src = (blockIdx.y == 0 ? k : v) + (i64)token * width;
  T* cache = blockIdx.y == 0 ? k_cache : v_cache;
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    cache[cache_row(slot, i / head_dim, kv_heads) * head_dim + i % head_dim] = round(src[i]);
  }
}

#define KV_WRITE(name, type, rounded)                                                             \
  KERNEL(name, 256,                                                                               \
         (type* k_cache, type* v_cache, const float* k, const float* v, const int* slots,         \
          int kv_heads, int head_dim)) {                                                          \
    kv_write(k_cache, v_cache, k, v, slots, kv_heads, head_dim,                                   \
             [](float x) { return (type)(rounded); });                                            \
  }
KV_WRITE(kv_write_f16, u16, f32_to_f16(x))
KV_WRITE(kv_write_bf16, u16, bf16x2(x, 0.0f))
KV_WRITE(kv_write_f32, float, x)
KV_WRITE(kv_write_e4m3, u8, f32_to_e4m3(x))

// A warp for each group of values that share a scale. Where a value is not finite the scale is not
// either, so that it is seen.
KERNEL(kv_write_q8_0, 256,
       (i8* k_cache, i8* v_cache, u16* k_scales, u16* v_scales, const float* k, const float* v,
        const int* slots, int kv_heads, int head_dim)) {
  int token = blockIdx.x, width = kv_heads * head_dim, slot = slots[token];
  if (overwritten(slots)) return;
  const float* src = (blockIdx.y == 0 ? k : v) + (i64)token * width;
  i8* cache = blockIdx.y == 0 ? k_cache : v_cache;
  u16* scales = blockIdx.y == 0 ? k_scales : v_scales;
  int lane = threadIdx.x % 32;
  for (int group = threadIdx.x / 32; group < width / SCALE_GROUP; group += blockDim.x / 32) {
    int i = group * SCALE_GROUP + lane;
    float x = src[i];
    // As whole numbers, because there a NaN is the largest.
    u32 largest = __float_as_uint(x) & 0x7fffffffu;
#pragma unroll
    for (int m = 16; m > 0; m >>= 1) {
      u32 other = __shfl_xor_sync(0xffffffffu, largest, m);
      largest = other > largest ? other : largest;
    }
    u16 bits = f32_to_f16(__uint_as_float(largest) / 127.0f);
    float scale = f16_to_f32(bits), inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    float whole = fminf(fmaxf(rintf(x * inverse), -127.0f), 127.0f);
    if (inverse == 0.0f) whole = 0.0f;  // zeroes, and infinity times zero, which is no number
    i64 at = cache_row(slot, i / head_dim, kv_heads) * head_dim + i % head_dim;
    cache[at] = (i8)whole;
    if (lane == 0) scales[at / SCALE_GROUP] = bits;
  }
}
