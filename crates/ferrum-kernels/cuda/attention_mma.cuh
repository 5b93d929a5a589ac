// Attention of 16 query rows by one warp on tensor cores, over keys and values in F16.
//
// Half precision has 11 bits, and the oracle's bound asks for twice as many. Keys and values are
// what they are; queries and weights are each split into a sum of two halves, the high and the low
// one, and each product is two. So that neither half leaves the range of half precision, a query
// row is scaled by the power of two that brings its largest value to 2^14, and weights are
// multiples of 2^-14.
#pragma once
#include "attention.cuh"

constexpr int MMA_ROWS = 16;               // query rows of a warp
constexpr float WEIGHT_UNIT = 16384.0f;    // what the largest weight of a row is kept as

// Numbers of a row of shared memory: 16 bytes more than it has values, so that the eight rows of a
// matrix lie in different banks.
template <int DIM>
constexpr int MMA_STRIDE = DIM + 8;

// Turns of the outer loops that are unrolled: more would keep too many addresses in registers.
template <int DIM>
constexpr int MMA_UNROLL = DIM > 128 ? 1 : 2;

// What a warp knows of its rows, and its columns of their values. In a fragment of sums, lane `l` has columns `2(l % 4)` and the
// next of rows `l / 4` (numbers 0 and 1 of four) and `l / 4 + 8` (2 and 3).
template <int DIM, int COLUMNS = DIM>
struct WarpRows {
  float sums[COLUMNS / 8][4];        // weighted sums of values, [16, COLUMNS]
  float largest[2], weights[2];      // softmax state of this lane's rows; weights of its columns
  float scale[2];                    // what products are multiplied by
  int position[2];
};

// The high and the low half of two numbers each.
DEVICE void split_halves(float a, float b, u32& high, u32& low) {
  high = f16x2(a, b);
  low = f16x2(a - f16_to_f32((u16)high), b - f16_to_f32((u16)(high >> 16)));
}

// Brings this warp's rows, from packed row `first` on, to `high` and `low`: [16, MMA_STRIDE]. Rows
// from `count` on are zero. Of warps that share their rows, one keeps them there.
template <int DIM, int COLUMNS>
DEVICE void load_rows(WarpRows<DIM, COLUMNS>& w, u16* high, u16* low, const float* q,
                      const QueryRows& rows, const Scores& scores, int first, int count, int group,
                      int kv_heads, int kv_head, bool keep) {
  int lane = threadIdx.x % 32;
  for (int row = 0; row < MMA_ROWS; row++) {
    i64 from = query_offset(rows.token, first + row, group, kv_heads, kv_head, DIM);
    float x[DIM / 32], largest = 0.0f;
#pragma unroll
    for (int i = 0; i < DIM / 32; i++) {
      x[i] = row < count ? q[from + i * 32 + lane] : 0.0f;
      largest = fmaxf(largest, fabsf(x[i]));
    }
    // The power of two that brings the largest value to 2^14 .. 2^15, and its inverse.
    int exponent = (int)(__float_as_uint(warp_max(largest)) >> 23) - 127;
    exponent = max(exponent, -100);
    float up = __uint_as_float((u32)(127 + 14 - exponent) << 23);
    float down = __uint_as_float((u32)(127 - 14 + exponent) << 23);
#pragma unroll
    for (int i = 0; i < DIM / 32; i++) {
      float value = x[i] * up;
      u16 half = f32_to_f16(value);
      if (!keep) continue;
      high[row * MMA_STRIDE<DIM> + i * 32 + lane] = half;
      low[row * MMA_STRIDE<DIM> + i * 32 + lane] = f32_to_f16(value - f16_to_f32(half));
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
      if (row == lane / 4 + 8 * i) {
        w.scale[i] = down * scores.scale;
        w.position[i] = rows.position + (first + row) / group;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 2; i++) w.largest[i] = NEGATIVE_INFINITY, w.weights[i] = 0.0f;
#pragma unroll
  for (int n = 0; n < COLUMNS / 8; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) w.sums[n][i] = 0.0f;
  }
  __syncwarp();
}

// Starts copying the positions `at .. at + KEYS` of keys or values to `to`: [KEYS, MMA_STRIDE].
// Those outside `begin .. end` become zero: what nobody has written may be no number. By `THREADS`
// threads, of which this is number `thread`.
template <int DIM, int KEYS, int THREADS>
DEVICE void copy_tile(u16* to, const PagedRows& from, int thread, int at, int begin, int end) {
  constexpr int PIECES = DIM / 8;
#pragma unroll MMA_UNROLL<DIM>
  for (int i = thread; i < KEYS * PIECES; i += THREADS) {
    int row = i / PIECES, piece = i % PIECES, position = at + row;
    bool valid = position >= begin && position < end;
    position = valid ? position : begin;
    i64 source = from.first_row(position / KV_BLOCK) + position % KV_BLOCK;
    cp_async16_or_zero(to + row * MMA_STRIDE<DIM> + piece * 8,
                       from.values + (source * DIM + piece * 8) * 2, valid);
  }
  cp_async_commit();
}

// products[n] = queries · keys of positions 8n .. 8n + 8
template <int DIM, int KEYS>
DEVICE void multiply_keys(float products[KEYS / 8][4], const u16* high, const u16* low,
                          const u16* keys) {
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) products[n][i] = 0.0f;
  }
  int query = lane % 16 * MMA_STRIDE<DIM> + lane / 16 * 8;
  int key = (lane / 16 * 8 + lane % 8) * MMA_STRIDE<DIM> + lane / 8 % 2 * 8;
#pragma unroll MMA_UNROLL<DIM>
  for (int k = 0; k < DIM; k += 16) {
    u32 a_high[4], a_low[4];
    ldmatrix_x4(a_high, high + query + k);
    ldmatrix_x4(a_low, low + query + k);
#pragma unroll
    for (int n = 0; n < KEYS / 8; n += 2) {
      u32 b[4];
      ldmatrix_x4(b, keys + n * 8 * MMA_STRIDE<DIM> + key + k);
      mma_f16(products[n], a_low, b);
      mma_f16(products[n + 1], a_low, b + 2);
      mma_f16(products[n], a_high, b);
      mma_f16(products[n + 1], a_high, b + 2);
    }
  }
}

// The online softmax: products with the keys of the positions from `at` become weights, and sums
// and weights so far are scaled to the new maximum.
template <int DIM, int KEYS, int COLUMNS>
DEVICE void soften(WarpRows<DIM, COLUMNS>& w, float products[KEYS / 8][4], const Scores& scores,
                   int at) {
  int column = threadIdx.x % 4 * 2;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float largest = w.largest[half];
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float& x = products[n][2 * half + i];
        bool sees = scores.sees(w.position[half], at + n * 8 + column + i);
        x = sees ? scores.exponent(x, w.scale[half]) : NEGATIVE_INFINITY;
        largest = fmaxf(largest, x);
      }
    }
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
    // Where nothing has been seen so far, so that no difference of infinities comes about.
    float base = largest == NEGATIVE_INFINITY ? 0.0f : largest;
    float factor = exp2f(w.largest[half] - base);
    w.largest[half] = largest;
    w.weights[half] *= factor;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float& x = products[n][2 * half + i];
        x = exp2f(x - base) * WEIGHT_UNIT;
        w.weights[half] += x;
      }
    }
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++) {
      w.sums[n][2 * half] *= factor;
      w.sums[n][2 * half + 1] *= factor;
    }
  }
}

// sums += weights · values
template <int DIM, int KEYS, int COLUMNS>
DEVICE void multiply_values(WarpRows<DIM, COLUMNS>& w, const float weights[KEYS / 8][4],
                            const u16* values) {
  int lane = threadIdx.x % 32;
  int value = lane % 16 * MMA_STRIDE<DIM> + lane / 16 * 8;
#pragma unroll
  for (int k = 0; k < KEYS; k += 16) {
    // Fragments of sums are fragments of a left operand, two by two.
    const float *left = weights[k / 8], *right = weights[k / 8 + 1];
    u32 a_high[4], a_low[4];
    split_halves(left[0], left[1], a_high[0], a_low[0]);
    split_halves(left[2], left[3], a_high[1], a_low[1]);
    split_halves(right[0], right[1], a_high[2], a_low[2]);
    split_halves(right[2], right[3], a_high[3], a_low[3]);
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n += 2) {
      u32 b[4];
      ldmatrix_x4_trans(b, values + k * MMA_STRIDE<DIM> + value + n * 8);
      mma_f16(w.sums[n], a_low, b);
      mma_f16(w.sums[n + 1], a_low, b + 2);
      mma_f16(w.sums[n], a_high, b);
      mma_f16(w.sums[n + 1], a_high, b + 2);
    }
  }
}

// The weights of a whole row, from those of its four lanes.
DEVICE float row_weights(float lane_weights) {
  lane_weights += __shfl_xor_sync(0xffffffffu, lane_weights, 1);
  return lane_weights + __shfl_xor_sync(0xffffffffu, lane_weights, 2);
}
