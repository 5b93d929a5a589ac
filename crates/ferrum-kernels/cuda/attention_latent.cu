// Attention on tensor cores over a cache in F16 whose keys of 576 numbers begin with their values of 512:
// multi-head latent attention in its absorbed form (DeepSeek-V2, arXiv:2405.04434). As elsewhere,
// sequences of few tokens have their contexts split over blocks, whose results `attention_merge` brings
// together, and sequences of many have not. A tile of keys is read once, for scores and values alike: the
// four warps share out the products with keys, by positions and by halves of a key, and then the columns
// of the values.
//
// Reference shape, one token with 128 heads over one of 576 numbers after 4096 positions: 4.7 MB of
// keys from memory, which eight blocks of 16 rows each read; 0.57 Gop twice over, as queries and weights
// are two halves each; 32 splits write and read again 8.4 MB of states each way. 2048 tokens: 0.58 Top
// twice over, 1.5 ms at 800 Tflop/s; 16384 blocks read what they see, 19 GB altogether and nearly all from
// the second-level cache, which takes longer: more rows a block would need more registers for their sums.
#include "attention_mma.cuh"

constexpr int LATENT_WARPS = 4;
constexpr int LATENT_THREADS = LATENT_WARPS * 32;
constexpr int LATENT_KEYS = 16;  // positions of a tile: the next is under way while one is used

// This warp's part of the products of 16 queries with a tile of keys: with eight of them, over a half
// of their numbers. To `products`, [2, 16, LATENT_KEYS].
template <int DIM>
DEVICE void multiply_part(float* products, const u16* queries, const u16* keys) {
  constexpr int PART = DIM / 2;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int part = warp / 2, column = warp % 2 * 8;
  const u16* high = queries + lane % 16 * MMA_STRIDE<DIM> + lane / 16 * 8 + part * PART;
  const u16* low = high + MMA_ROWS * MMA_STRIDE<DIM>;
  int key = (column + lane % 8) * MMA_STRIDE<DIM> + lane / 8 * 8 + part * PART;
  float of_high[4] = {0.0f, 0.0f, 0.0f, 0.0f}, of_low[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 3
  for (int k = 0; k < PART; k += 32) {
    u32 b[4];
    ldmatrix_x4(b, keys + key + k);
#pragma unroll
    for (int step = 0; step < 2; step++) {
      u32 a[4];
      ldmatrix_x4(a, low + k + 16 * step);
      mma_f16(of_low, a, b + 2 * step);
      ldmatrix_x4(a, high + k + 16 * step);
      mma_f16(of_high, a, b + 2 * step);
    }
  }
  float* to = products + (part * MMA_ROWS + lane / 4) * LATENT_KEYS + column + lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < 4; i++) to[i / 2 * 8 * LATENT_KEYS + i % 2] = of_low[i] + of_high[i];
}

// The products of all warps, as fragments.
DEVICE void gather_products(float out[LATENT_KEYS / 8][4], const float* products) {
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < LATENT_KEYS / 8; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int row = lane / 4 + i / 2 * 8, column = n * 8 + lane % 4 * 2 + i % 2;
      const float* from = products + row * LATENT_KEYS + column;
      out[n][i] = from[0] + from[MMA_ROWS * LATENT_KEYS];
    }
  }
}

using Tile = KvTile<KV_F16, 576, LATENT_KEYS>;

// This warp's columns of the sums of `rows` over the positions `begin .. end`.
template <int DIM, int COLUMNS>
DEVICE void attend(WarpRows<DIM, COLUMNS>& w, const float* q, const QueryRows& rows,
                   const Scores& scores, const PagedRows& keys, int begin, int end, int group) {
  constexpr int KEYS = LATENT_KEYS, THREADS = LATENT_THREADS;
  int warp = threadIdx.x / 32;
  DYNAMIC_SHARED(u16, queries);  // WARP_QUERIES, a pair of tiles, [2, 16, KEYS] of products
  u8* pair = reinterpret_cast<u8*>(queries + WARP_QUERIES<DIM>);
  Tile tile = Tile::of_pair(pair, 0), next = Tile::of_pair(pair, 1);
  float* products = reinterpret_cast<float*>(pair + Tile::PAIR);
  // Tiles begin at multiples of their size, so that a row's sums do not depend on `begin`.
  int at = begin / KEYS * KEYS;
  if (at < end) copy_tile<THREADS>(tile, keys, threadIdx.x, at, begin, end);
  load_rows<KV_F16>(w, queries, q, rows, scores, rows.first, rows.count, group, keys.kv_heads,
                    keys.kv_head, warp == 0);
  for (; at < end; at += KEYS) {
    float weights[KEYS / 8][4];
    cp_async_wait<0>();
    __syncthreads();  // the tile is there, and the queries; the other tile and products are used up
    if (at + KEYS < end) copy_tile<THREADS>(next, keys, threadIdx.x, at + KEYS, begin, end);
    multiply_part<DIM>(products, queries, tile.numbers);
    __syncthreads();  // the products are there
    gather_products(weights, products);
    soften<DIM, KEYS>(w, weights, scores, at);
    multiply_values(w, weights, tile, warp * COLUMNS);
    Tile used = tile;
    tile = next, next = used;
  }
}

// Leaves this warp's columns of the rows' outputs. Weights are what they are from here on.
template <int DIM, int COLUMNS>
DEVICE void leave_outputs(float* out, const WarpRows<DIM, COLUMNS>& w, const QueryRows& rows,
                          const Scores& scores, int group, int kv_heads, int kv_head) {
  constexpr int VALUES = COLUMNS * LATENT_WARPS;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float weights = row_weights(w.weights[half]) / WEIGHT_UNIT, unit = 1.0f / WEIGHT_UNIT;
    int row = lane / 4 + 8 * half;
    if (row >= rows.count) continue;
    row += rows.first;
    int head = query_head(row, group, kv_head);
    float divisor = weights + sink_weight(scores.sinks, head, w.largest[half]);
    float* to = out + query_offset(rows.token, row, group, kv_heads, kv_head, VALUES);
    to += warp * COLUMNS + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++) {
      to[n * 8] = w.sums[n][2 * half] * unit / divisor;
      to[n * 8 + 1] = w.sums[n][2 * half + 1] * unit / divisor;
    }
  }
}

// Leaves the rows' state of split `blockIdx.x`. `token`: the sequence's first among those of `partials`.
template <int DIM, int COLUMNS>
DEVICE void leave_partials(float* partials, float* states, const WarpRows<DIM, COLUMNS>& w,
                           const QueryRows& rows, int token, int group, int kv_heads, int kv_head) {
  constexpr int VALUES = COLUMNS * LATENT_WARPS;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, splits = gridDim.x;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float weights = row_weights(w.weights[half]) / WEIGHT_UNIT, unit = 1.0f / WEIGHT_UNIT;
    int row = lane / 4 + 8 * half;
    if (row >= rows.count) continue;
    i64 at = query_offset(token, rows.first + row, group, kv_heads, kv_head, splits) + blockIdx.x;
    if (warp == 0 && lane % 4 == 0) {
      states[2 * at] = w.largest[half];
      states[2 * at + 1] = weights;
    }
    float* to = partials + at * VALUES + warp * COLUMNS + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++) {
      to[n * 8] = w.sums[n][2 * half] * unit;
      to[n * 8 + 1] = w.sums[n][2 * half + 1] * unit;
    }
  }
}

// Block (split, kv_head · tile, seq). Where a sequence has one split, its output is final. `q`: [T,
// heads, 576]; `out`: [T, heads, 512]; `partials`: [tokens, heads, gridDim.x, 512]; `states`: the same
// without 512, of pairs (max, sum).
KERNEL_RESIDENT(attention_latent_split_576, 128, 2,
                (float* out, float* partials, float* states, const float* q, const u8* k,
                 const int* query_starts, const int* kv_lens, const int* block_tables,
                 int blocks_per_seq, int kv_heads, int group, float scale, float softcap,
                 int window, const float* sinks, int most_tokens)) {
  int seq = blockIdx.z, kv_head = blockIdx.y % kv_heads;
  QueryRows rows;
  Splits splits;
  bool some = decode_rows(rows, splits, seq, blockIdx.y / kv_heads, MMA_ROWS, blockIdx.x, group,
                          most_tokens, window, query_starts, kv_lens);
  if (!some) return;
  Scores scores = {scale, softcap, window, true, sinks};
  int begin, end;
  split_seen(begin, end, rows, splits, blockIdx.x, scores, group);
  PagedRows keys = {k, nullptr, block_tables + (i64)seq * blocks_per_seq, kv_heads, kv_head};
  WarpRows<576, 512 / LATENT_WARPS> w;
  attend(w, q, rows, scores, keys, begin, end, group);
  if (splits.count == 1) {
    leave_outputs(out, w, rows, scores, group, kv_heads, kv_head);
  } else {
    int token = decode_token(seq, most_tokens, query_starts);
    leave_partials(partials, states, w, rows, token, group, kv_heads, kv_head);
  }
}

// Block (tile, kv_head). `q`: [T, heads, 576]; `out`: [T, heads, 512]
KERNEL_RESIDENT(attention_latent_576, 128, 2,
                (float* out, const float* q, const u8* k, const int* query_starts,
                 const int* kv_lens, const int* block_tables, int blocks_per_seq, int seqs,
                 int group, float scale, float softcap, int window, const float* sinks,
                 int most_tokens)) {
  int kv_head = blockIdx.y, kv_heads = gridDim.y;
  QueryRows rows;
  if (!prefill_rows(rows, MMA_ROWS, group, most_tokens, seqs, query_starts, kv_lens)) return;
  Scores scores = {scale, softcap, window, true, sinks};
  const int* table = block_tables + (i64)rows.seq * blocks_per_seq;
  PagedRows keys = {k, nullptr, table, kv_heads, kv_head};
  WarpRows<576, 512 / LATENT_WARPS> w;
  attend(w, q, rows, scores, keys, first_seen(rows, scores, group),
         end_seen(rows, scores, group), group);
  leave_outputs(out, w, rows, scores, group, kv_heads, kv_head);
}
