// Attention of 16 query rows by one warp on tensor cores.
//
// Half precision has 11 bits and BF16 has 8, and the oracle's bound asks for 22. Keys and values are
// what they are; queries and weights are each split into a sum of numbers of their type, two or three,
// and each product is as many. So that no half leaves the range of half precision, a query row is
// scaled by the power of two that brings its largest value to 2^14, and weights are kept as 2^14 times
// what they are.
#pragma once
#include "kv_tiles.cuh"

constexpr int MMA_ROWS = 16;               // query rows of a warp
constexpr float WEIGHT_UNIT = 16384.0f;    // what the largest weight of a row is kept as

// Numbers that queries and weights are sums of.
template <KvType TYPE>
constexpr int TERMS = TYPE == KV_BF16 ? 3 : 2;

// Numbers of 16 bits of a warp's queries: the high halves `[16, MMA_STRIDE]` and then the low ones, or for
// BF16 single precision.
template <int DIM>
constexpr int WARP_QUERIES = 2 * MMA_ROWS * MMA_STRIDE<DIM>;

// What a warp knows of its rows, and its columns of their values. In a fragment of sums, lane `l` has
// columns `2(l % 4)` and the next of rows `l / 4` (numbers 0 and 1 of four) and `l / 4 + 8` (2 and 3).
template <int DIM, int COLUMNS = DIM>
struct WarpRows {
  float sums[COLUMNS / 8][4];        // weighted sums of values, [16, COLUMNS]
  float largest[2], weights[2];      // softmax state of this lane's rows; weights of its columns
  float scale[2];                    // what products are multiplied by
  int position[2];
};

// Number `i` of each term of two numbers; the largest term comes first.
template <KvType TYPE>
DEVICE void split(u32 terms[TERMS<TYPE>][4], int i, float a, float b) {
#pragma unroll
  for (int t = 0; t < TERMS<TYPE>; t++) {
    if constexpr (TYPE == KV_BF16) {
      terms[t][i] = bf16x2(a, b);
      a -= bf16_to_f32((u16)terms[t][i]);
      b -= bf16_to_f32((u16)(terms[t][i] >> 16));
    } else {
      terms[t][i] = f16x2(a, b);
      a -= f16_to_f32((u16)terms[t][i]);
      b -= f16_to_f32((u16)(terms[t][i] >> 16));
    }
  }
}

// c += a · b, the small terms first.
template <KvType TYPE>
DEVICE void multiply(float c[4], const u32 terms[TERMS<TYPE>][4], const u32 b[2]) {
#pragma unroll
  for (int t = TERMS<TYPE> - 1; t >= 0; t--) {
    if constexpr (TYPE == KV_BF16) mma_bf16(c, terms[t], b);
    else mma_f16(c, terms[t], b);
  }
}

// Leaves a query, of which this lane has every 32nd value, in row `row` of `queries`, and returns what
// its products are to be multiplied by. Of warps that share their rows, one keeps them.
template <KvType TYPE, int DIM>
DEVICE float keep_query(u16* queries, int row, const float x[DIM / 32], bool keep) {
  int lane = threadIdx.x % 32;
  float largest = 0.0f;
#pragma unroll
  for (int i = 0; i < DIM / 32; i++) largest = fmaxf(largest, fabsf(x[i]));
  // The power of two that brings the largest value to 2^14 .. 2^15, and its inverse.
  int exponent = (int)(__float_as_uint(warp_max(largest)) >> 23) - 127;
  exponent = max(exponent, -100);
  float up = __uint_as_float((u32)(127 + 14 - exponent) << 23);
  if (keep) {
    int at = row * MMA_STRIDE<DIM> + lane;
#pragma unroll
    for (int i = 0; i < DIM / 32; i++, at += 32) {
      if constexpr (TYPE == KV_BF16) {
        reinterpret_cast<float*>(queries)[at] = x[i];
      } else {
        u16 half = f32_to_f16(x[i] * up);
        queries[at] = half;
        queries[MMA_ROWS * MMA_STRIDE<DIM> + at] = f32_to_f16(x[i] * up - f16_to_f32(half));
      }
    }
  }
  return TYPE == KV_BF16 ? 1.0f : __uint_as_float((u32)(127 - 14 + exponent) << 23);
}

// Brings this warp's rows, from packed row `first` on, to `queries`. Rows from `count` on are zero.
template <KvType TYPE, int DIM, int COLUMNS>
DEVICE void load_rows(WarpRows<DIM, COLUMNS>& w, u16* queries, const float* q,
                      const QueryRows& rows, const Scores& scores, int first, int count, int group,
                      int kv_heads, int kv_head, bool keep) {
  int lane = threadIdx.x % 32;
  for (int row = 0; row < MMA_ROWS; row++) {
    i64 from = query_offset(rows.token, first + row, group, kv_heads, kv_head, DIM);
    float x[DIM / 32];
#pragma unroll
    for (int i = 0; i < DIM / 32; i++) x[i] = row < count ? q[from + i * 32 + lane] : 0.0f;
    float scale = keep_query<TYPE, DIM>(queries, row, x, keep);
#pragma unroll
    for (int i = 0; i < 2; i++) {
      if (row == lane / 4 + 8 * i) {
        w.scale[i] = scale * scores.scale;
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

// Columns `k .. k + 16` of a warp's queries, as a fragment of each term.
template <KvType TYPE, int DIM>
DEVICE void load_queries(u32 terms[TERMS<TYPE>][4], const u16* queries, int k) {
  int lane = threadIdx.x % 32;
  if constexpr (TYPE == KV_BF16) {
    const float* own = reinterpret_cast<const float*>(queries);
    own += lane / 4 * MMA_STRIDE<DIM> + k + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float* two = own + i % 2 * 8 * MMA_STRIDE<DIM> + i / 2 * 8;
      float2 x = *reinterpret_cast<const float2*>(two);
      split<TYPE>(terms, i, x.x, x.y);
    }
  } else {
    const u16* own = queries + lane % 16 * MMA_STRIDE<DIM> + lane / 16 * 8 + k;
    ldmatrix_x4(terms[0], own);
    ldmatrix_x4(terms[1], own + MMA_ROWS * MMA_STRIDE<DIM>);
  }
}

// products[n] = queries · keys of positions 8n .. 8n + 8
template <KvType TYPE, int DIM, int KEYS>
DEVICE void multiply_keys(float products[KEYS / 8][4], const u16* queries,
                          const KvTile<TYPE, DIM, KEYS>& keys) {
  // Columns that have one scale.
  constexpr int STEP = TYPE == KV_Q8_0 ? SCALE_GROUP : 16, SCALES = KV_SCALES<TYPE, DIM>;
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) products[n][i] = 0.0f;
  }
  const u16* key = keys.numbers + (lane / 16 * 8 + lane % 8) * MMA_STRIDE<DIM> + lane / 8 % 2 * 8;
#pragma unroll TYPE == KV_Q8_0 ? 1 : MMA_UNROLL<DIM>
  for (int k = 0; k < DIM; k += STEP) {
    u32 a[STEP / 16][TERMS<TYPE>][4];
#pragma unroll
    for (int s = 0; s < STEP / 16; s++) load_queries<TYPE, DIM>(a[s], queries, k + 16 * s);
#pragma unroll
    for (int n = 0; n < KEYS / 8; n += 2) {
      float part[2][4] = {};
      float(*to)[4] = TYPE == KV_Q8_0 ? part : products + n;
#pragma unroll
      for (int s = 0; s < STEP / 16; s++) {
        u32 b[4];
        ldmatrix_x4(b, key + n * 8 * MMA_STRIDE<DIM> + k + 16 * s);
        multiply<TYPE>(to[0], a[s], b);
        multiply<TYPE>(to[1], a[s], b + 2);
      }
      if constexpr (TYPE == KV_Q8_0) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
          int position = (n + i / 4) * 8 + lane % 4 * 2 + i % 2;
          float scale = f16_to_f32(keys.scales[position * SCALES + k / SCALE_GROUP]);
          products[n + i / 4][i % 4] += part[i / 4][i % 4] * scale;
        }
      }
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

// A fragment of each term of the weights at positions `8n .. 8n + 16`: fragments of sums are fragments of
// a left operand, two by two. Each is multiplied by the factors of its position, [KEYS / 8, 2] of a lane,
// and of its row.
template <KvType TYPE>
DEVICE void split_weights(u32 terms[TERMS<TYPE>][4], const float weights[2][4],
                          const float of_positions[2][2], const float of_rows[2]) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float *two = weights[i / 2] + i % 2 * 2, *factors = of_positions[i / 2];
    split<TYPE>(terms, i, two[0] * factors[0] * of_rows[i % 2],
                two[1] * factors[1] * of_rows[i % 2]);
  }
}

// sums[n] += weights · columns 8n .. 8n + 8 of the values at `values`, `N` of them
template <KvType TYPE, int DIM, int KEYS, int N>
DEVICE void add_columns(float sums[N][4], const float weights[KEYS / 8][4],
                        const float of_positions[KEYS / 8][2], const float of_rows[2],
                        const u16* values) {
  int lane = threadIdx.x % 32;
  values += lane % 16 * MMA_STRIDE<DIM> + lane / 16 * 8;
#pragma unroll
  for (int k = 0; k < KEYS; k += 16) {
    u32 a[TERMS<TYPE>][4];
    split_weights<TYPE>(a, weights + k / 8, of_positions + k / 8, of_rows);
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      u32 b[4];
      ldmatrix_x4_trans(b, values + k * MMA_STRIDE<DIM> + n * 8);
      multiply<TYPE>(sums[n], a, b);
      multiply<TYPE>(sums[n + 1], a, b + 2);
    }
  }
}

// The scales of group `group` of the values at this lane's positions, and of each row the power of two
// that is more than any scale the row sees in the tile: weights times scales, divided by it, stay in the
// range of half precision. What a row does not see has no part in it.
template <int DIM, int KEYS>
DEVICE void value_scales(float factors[KEYS / 8][2], float units[2],
                         const float weights[KEYS / 8][4], const u16* scales, int group) {
  units[0] = units[1] = 0.0f;
#pragma unroll
  for (int i = 0; i < KEYS / 4; i++) {
    int position = i / 2 * 8 + threadIdx.x % 4 * 2 + i % 2;
    float scale = f16_to_f32(scales[position * (DIM / SCALE_GROUP) + group]);
    factors[i / 2][i % 2] = scale;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      bool seen = weights[i / 2][2 * half + i % 2] > 0.0f;
      units[half] = fmaxf(units[half], seen ? scale : 0.0f);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float largest = units[half];
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
    // An infinite scale stays infinite.
    u32 exponent = min(max(__float_as_uint(largest) >> 23, 100u), 150u) + 1;
    units[half] = __uint_as_float(exponent << 23);
  }
}

// sums += weights · values, from column `first` of the values on
template <KvType TYPE, int DIM, int KEYS, int COLUMNS>
DEVICE void multiply_values(WarpRows<DIM, COLUMNS>& w, const float weights[KEYS / 8][4],
                            const KvTile<TYPE, DIM, KEYS>& values, int first = 0) {
  float factors[KEYS / 8][2];
  if constexpr (TYPE == KV_Q8_0) {
    constexpr int N = SCALE_GROUP / 8;
#pragma unroll
    for (int group = 0; group < COLUMNS / SCALE_GROUP; group++) {
      float units[2];
      value_scales<DIM, KEYS>(factors, units, weights, values.scales, group);
      const float inverse[2] = {1.0f / units[0], 1.0f / units[1]};
      // Powers of two lose nothing, and sums that stay where they are need no further registers.
      float(*sums)[4] = w.sums + group * N;
#pragma unroll
      for (int i = 0; i < 4 * N; i++) sums[i / 4][i % 4] *= inverse[i / 2 % 2];
      add_columns<TYPE, DIM, KEYS, N>(sums, weights, factors, inverse,
                                      values.numbers + group * SCALE_GROUP);
#pragma unroll
      for (int i = 0; i < 4 * N; i++) sums[i / 4][i % 4] *= units[i / 2 % 2];
    }
  } else {
    const float ones[2] = {1.0f, 1.0f};
#pragma unroll
    for (int i = 0; i < KEYS / 4; i++) factors[i / 2][i % 2] = 1.0f;
    add_columns<TYPE, DIM, KEYS, COLUMNS / 8>(w.sums, weights, factors, ones,
                                              values.numbers + first);
  }
}

// The weights of a whole row, from those of its four lanes.
DEVICE float row_weights(float lane_weights) {
  lane_weights += __shfl_xor_sync(0xffffffffu, lane_weights, 1);
  return lane_weights + __shfl_xor_sync(0xffffffffu, lane_weights, 2);
}
