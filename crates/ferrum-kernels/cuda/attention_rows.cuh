// Attention of up to eight query rows over a range of positions by plain multiply-adds: for every
// element type and head width. Shared memory holds the keys and values of one cache block, whatever
// the length of the context; the keys of the next are under way while values are added up, and the
// other way round. Values that are the first ones of each key are read where the keys are, and the
// next block waits until that is done.
#pragma once
#include "attention.cuh"

constexpr int ROWS_TILE = 8;        // query rows of a block
constexpr int ROWS_THREADS = 128;
constexpr int ROWS_WARPS = ROWS_THREADS / 32;
// Eights of the output that a thread keeps: enough for outputs of 512 values.
constexpr int ROWS_ITEMS = 4;

// Shared memory: `rows_shared_bytes` of the launcher has the same sum.
struct RowsShared {
  u8 *k, *v;                  // [KV_BLOCK][row_bytes]; the same where values are a part of keys
  u16 *k_scales, *v_scales;   // [KV_BLOCK][head_dim / SCALE_GROUP], for Q8_0
  float* q;                   // [ROWS_TILE][head_dim]
  float* weights;             // [ROWS_TILE][KV_BLOCK]
  float *factor, *max, *sum;  // [ROWS_TILE]
  int row_bytes;              // 16 more than a row has, so that lanes that each read a row do not
                              // meet in one bank
};

template <KvType TYPE>
DEVICE RowsShared rows_shared(u8* memory, int head_dim, bool own_values) {
  RowsShared s;
  s.row_bytes = head_dim * VALUE_BYTES<TYPE> + 16;
  s.k = memory;
  s.v = own_values ? s.k + KV_BLOCK * s.row_bytes : s.k;
  s.k_scales = reinterpret_cast<u16*>(s.v + KV_BLOCK * s.row_bytes);
  int scales = TYPE == KV_Q8_0 ? KV_BLOCK / SCALE_GROUP * head_dim : 0;
  s.v_scales = own_values ? s.k_scales + scales : s.k_scales;
  s.q = reinterpret_cast<float*>(s.v_scales + scales);
  s.weights = s.q + ROWS_TILE * head_dim;
  s.factor = s.weights + ROWS_TILE * KV_BLOCK;
  s.max = s.factor + ROWS_TILE;
  s.sum = s.max + ROWS_TILE;
  return s;
}

// Starts copying the first `count` positions of block `block`.
template <KvType TYPE, class Rows>
DEVICE void copy_block(u8* to, u16* scales_to, int row_bytes, const Rows& from, int block,
                       int count, int head_dim) {
  i64 first = from.first_row(block);
  int pieces = head_dim * VALUE_BYTES<TYPE> / 16;
  for (int i = threadIdx.x; i < count * pieces; i += ROWS_THREADS) {
    int position = i / pieces, piece = i % pieces;
    i64 row = first + (i64)position * from.stride();
    cp_async16(to + position * row_bytes + piece * 16,
               from.values + row * (head_dim * VALUE_BYTES<TYPE>) + piece * 16);
  }
  if constexpr (TYPE == KV_Q8_0) {
    // The scales of a whole block lie together: two bytes for each of `head_dim` groups.
    const u16* scales = from.scales + first * (head_dim / SCALE_GROUP);
    for (int i = threadIdx.x; i < head_dim / 8; i += ROWS_THREADS) {
      cp_async16(scales_to + i * 8, scales + i * 8);
    }
  }
  cp_async_commit();
}

// Products of `N` queries, `ROWS_WARPS` rows apart, with the key of this lane's position.
template <KvType TYPE, int N>
DEVICE void products(float out[2], const RowsShared& s, int row, int head_dim) {
  int lane = threadIdx.x % 32;
  const u8* key = s.k + lane * s.row_bytes;
  const u16* scales = s.k_scales + lane * (head_dim / SCALE_GROUP);
#pragma unroll 2
  for (int chunk = 0; chunk < head_dim / 8; chunk++) {
    float k[8];
    load8<TYPE>(k, key, scales, chunk);
#pragma unroll
    for (int n = 0; n < N; n++) {
      const float* q = s.q + (row + n * ROWS_WARPS) * head_dim + chunk * 8;
#pragma unroll
      for (int i = 0; i < 8; i++) out[n] = fmaf(q[i], k[i], out[n]);
    }
  }
}

// The online softmax of one row, by a warp whose lanes are the positions: leaves their weights and
// the factor on what was before in shared memory.
DEVICE void soften(const RowsShared& s, int row, float exponent, bool seen, float& max,
                   float& sum) {
  int lane = threadIdx.x % 32;
  float largest = fmaxf(max, warp_max(seen ? exponent : NEGATIVE_INFINITY));
  float weight = seen ? exp2f(exponent - largest) : 0.0f;
  // Where nothing has been seen so far there is nothing to scale.
  float factor = largest == NEGATIVE_INFINITY ? 1.0f : exp2f(max - largest);
  sum = sum * factor + warp_sum(weight);
  max = largest;
  s.weights[row * KV_BLOCK + lane] = weight;
  if (lane == 0) s.factor[row] = factor;
}

// Adds the values at the block's positions `from .. to` to the sums of this thread.
template <KvType TYPE>
DEVICE void add_values(float acc[ROWS_ITEMS][8], const RowsShared& s, int rows, int from, int to,
                       int head_dim, int value_dim) {
  int chunks = value_dim / 8;
#pragma unroll
  for (int n = 0; n < ROWS_ITEMS; n++) {
    int item = threadIdx.x + n * ROWS_THREADS;
    if (item >= rows * chunks) break;
    int row = item / chunks, chunk = item % chunks;
    float factor = s.factor[row];
#pragma unroll
    for (int i = 0; i < 8; i++) acc[n][i] *= factor;
#pragma unroll 2
    for (int position = from; position < to; position++) {
      float v[8];
      load8<TYPE>(v, s.v + position * s.row_bytes,
                  s.v_scales + position * (head_dim / SCALE_GROUP), chunk);
      float weight = s.weights[row * KV_BLOCK + position];
#pragma unroll
      for (int i = 0; i < 8; i++) acc[n][i] = fmaf(weight, v[i], acc[n][i]);
    }
  }
}

// Brings the queries of the rows to shared memory, and zeroes for the rows that there are not.
DEVICE void load_queries(const RowsShared& s, const float* q, const QueryRows& rows, int group,
                         int kv_heads, int kv_head, int head_dim) {
  for (int i = threadIdx.x; i < ROWS_TILE * head_dim; i += ROWS_THREADS) {
    int row = i / head_dim;
    i64 at = query_offset(rows.token, rows.first + row, group, kv_heads, kv_head, head_dim);
    s.q[i] = row < rows.count ? q[at + i % head_dim] : 0.0f;
  }
}

// Sums and softmax state of `rows` over the positions `begin .. end`: thread by thread the eights
// `threadIdx.x + n · ROWS_THREADS` of `[rows.count, value_dim / 8]` in `acc`, and `max`, `sum` of
// each row in shared memory. The queries are there already.
template <KvType TYPE, class Rows>
DEVICE void attend_rows(float acc[ROWS_ITEMS][8], const RowsShared& s, const QueryRows& rows,
                        const Scores& scores, const Rows& keys, const Rows& values, int begin,
                        int end, int group, int head_dim, int value_dim) {
  bool own_values = s.v != s.k;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float largest[2] = {NEGATIVE_INFINITY, NEGATIVE_INFINITY}, sum[2] = {0.0f, 0.0f};
#pragma unroll
  for (int n = 0; n < ROWS_ITEMS; n++) {
#pragma unroll
    for (int i = 0; i < 8; i++) acc[n][i] = 0.0f;
  }
  int first = begin / KV_BLOCK, blocks = ceil_div(end, KV_BLOCK);
  copy_block<TYPE>(s.k, s.k_scales, s.row_bytes, keys, first, min(KV_BLOCK, end - first * KV_BLOCK),
                   head_dim);
  for (int block = first; block < blocks; block++) {
    int at = block * KV_BLOCK, count = min(KV_BLOCK, end - at);
    if (own_values) {
      copy_block<TYPE>(s.v, s.v_scales, s.row_bytes, values, block, count, head_dim);
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    __syncthreads();  // the keys are there, and the queries
    float product[2] = {0.0f, 0.0f};
    if (lane < count) {
      if (rows.count > ROWS_WARPS) products<TYPE, 2>(product, s, warp, head_dim);
      else products<TYPE, 1>(product, s, warp, head_dim);
    }
#pragma unroll
    for (int n = 0; n < 2; n++) {
      int row = warp + n * ROWS_WARPS;
      if (row >= rows.count) break;
      int position = rows.position + (rows.first + row) / group;
      bool seen = lane < count && at + lane >= begin && scores.sees(position, at + lane);
      soften(s, row, scores.exponent(product[n], scores.scale), seen,
             largest[n], sum[n]);
    }
    cp_async_wait<0>();
    __syncthreads();  // the values are there, and the weights; the keys are used up
    bool more = block + 1 < blocks;
    int next = min(KV_BLOCK, end - at - KV_BLOCK);
    if (more && own_values) {
      copy_block<TYPE>(s.k, s.k_scales, s.row_bytes, keys, block + 1, next, head_dim);
    }
    add_values<TYPE>(acc, s, rows.count, max(begin - at, 0), count, head_dim, value_dim);
    __syncthreads();  // the values are used up, and the weights
    if (more && !own_values) {
      copy_block<TYPE>(s.k, s.k_scales, s.row_bytes, keys, block + 1, next, head_dim);
    }
  }
#pragma unroll
  for (int n = 0; n < 2; n++) {
    int row = warp + n * ROWS_WARPS;
    if (row < rows.count && lane == 0) s.max[row] = largest[n], s.sum[row] = sum[n];
  }
  __syncthreads();
}

// Writes the outputs `acc / sum` of the rows.
DEVICE void write_rows(float* out, const float acc[ROWS_ITEMS][8], const RowsShared& s,
                       const QueryRows& rows, const Scores& scores, int group, int kv_heads,
                       int kv_head, int value_dim) {
  int chunks = value_dim / 8;
#pragma unroll
  for (int n = 0; n < ROWS_ITEMS; n++) {
    int item = threadIdx.x + n * ROWS_THREADS;
    if (item >= rows.count * chunks) break;
    int row = item / chunks;
    i64 at = query_offset(rows.token, rows.first + row, group, kv_heads, kv_head, value_dim);
    float* to = out + at + item % chunks * 8;
    int head = query_head(rows.first + row, group, kv_head);
    float sum = s.sum[row] + sink_weight(scores.sinks, head, s.max[row]);
#pragma unroll
    for (int i = 0; i < 8; i++) to[i] = acc[n][i] / sum;
  }
}
