// Attention of the sequences that have few tokens in a step, on tensor cores, over a cache in F16 whose
// keys of 576 numbers begin with their values of 512: multi-head latent attention in its absorbed form
// (DeepSeek-V2, arXiv:2405.04434). The context is split over blocks, and `attention_merge` brings the
// splits together. A tile of keys is read once, for scores and values alike: the four warps share out
// the products with keys, by positions and by halves of a key, and then the columns of the values.
//
// Reference shape, one token with 128 heads over one of 576 numbers after 4096 positions: 4.7 MB of
// keys from memory, which eight blocks of 16 rows each read; 0.57 Gop twice over, as queries and weights
// are two halves each; 32 splits write and read again 8.4 MB of states each way.
#include "attention_mma.cuh"

constexpr int LATENT_WARPS = 4;
constexpr int LATENT_THREADS = LATENT_WARPS * 32;
constexpr int LATENT_KEYS = 16;  // positions of a tile: the next is under way while one is used

// This warp's part of the products of 16 queries with a tile of keys: with eight of them, over a half
// of their numbers. To `products`, [2, 16, LATENT_KEYS].
template <int DIM>
DEVICE void multiply_part(float* products, const u16* high, const u16* low, const u16* keys) {
  constexpr int PART = DIM / 2;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int part = warp / 2, column = warp % 2 * 8;
  int query = lane % 16 * MMA_STRIDE<DIM> + lane / 16 * 8 + part * PART;
  int key = (column + lane % 8) * MMA_STRIDE<DIM> + lane / 8 * 8 + part * PART;
  float of_high[4] = {0.0f, 0.0f, 0.0f, 0.0f}, of_low[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 3
  for (int k = 0; k < PART; k += 32) {
    u32 b[4];
    ldmatrix_x4(b, keys + key + k);
#pragma unroll
    for (int step = 0; step < 2; step++) {
      u32 a[4];
      ldmatrix_x4(a, low + query + k + 16 * step);
      mma_f16(of_low, a, b + 2 * step);
      ldmatrix_x4(a, high + query + k + 16 * step);
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

// Leaves this warp's columns of the rows: the output where the sequence has one split, else a state.
template <int DIM, int VALUES, int COLUMNS>
DEVICE void leave_rows(float* out, float* partials, float* states, const WarpRows<DIM, COLUMNS>& w,
                       const QueryRows& rows, const Splits& splits, const Scores& scores, int token,
                       int group, int kv_heads, int kv_head) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    // From here on weights are what they are.
    float weights = row_weights(w.weights[half]) / WEIGHT_UNIT, unit = 1.0f / WEIGHT_UNIT;
    int row = lane / 4 + 8 * half;
    if (row >= rows.count) continue;
    row += rows.first;
    bool final = splits.count == 1;
    i64 at = query_offset(final ? rows.token : token, row, group, kv_heads, kv_head,
                          final ? 1 : gridDim.x);
    float divisor = 1.0f;
    if (final) {
      divisor = weights + sink_weight(scores.sinks, query_head(row, group, kv_head),
                                      w.largest[half]);
    } else {
      at += blockIdx.x;
      if (warp == 0 && lane % 4 == 0) {
        states[2 * at] = w.largest[half];
        states[2 * at + 1] = weights;
      }
    }
    float* to = (final ? out : partials) + at * VALUES + warp * COLUMNS + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++) {
      to[n * 8] = w.sums[n][2 * half] * unit / divisor;
      to[n * 8 + 1] = w.sums[n][2 * half + 1] * unit / divisor;
    }
  }
}

// Block (split, kv_head · tile, seq). Where a sequence has one split, its output is final. `q`: [T,
// heads, DIM]; `out`: [T, heads, VALUES]; `partials`: [tokens, heads, gridDim.x, VALUES]; `states`:
// the same without VALUES, of pairs (max, sum).
template <int DIM, int VALUES>
DEVICE void attention_latent(float* out, float* partials, float* states, const float* q,
                             const u16* k, const int* query_starts, const int* kv_lens,
                             const int* block_tables, int blocks_per_seq, int kv_heads, int group,
                             const Scores& scores, int most_tokens) {
  constexpr int KEYS = LATENT_KEYS, STRIDE = MMA_STRIDE<DIM>, COLUMNS = VALUES / LATENT_WARPS;
  int seq = blockIdx.z, kv_head = blockIdx.y % kv_heads, warp = threadIdx.x / 32;
  QueryRows rows;
  Splits splits;
  bool some = decode_rows(rows, splits, seq, blockIdx.y / kv_heads, MMA_ROWS, blockIdx.x, group,
                          most_tokens, scores.window, query_starts, kv_lens);
  if (!some) return;
  int begin = (splits.first + (int)blockIdx.x) * splits.len;
  int end = min(begin + splits.len, end_seen(rows, scores, group));
  begin = max(begin, first_seen(rows, scores, group));
  const int* table = block_tables + (i64)seq * blocks_per_seq;
  PagedRows keys = {reinterpret_cast<const u8*>(k), nullptr, table, kv_heads, kv_head};

  // [16, STRIDE] twice, [KEYS, STRIDE] twice, [2, 16, KEYS] of products
  DYNAMIC_SHARED(u16, memory);
  u16 *high = memory, *low = high + MMA_ROWS * STRIDE, *tiles = low + MMA_ROWS * STRIDE;
  float* products = reinterpret_cast<float*>(tiles + 2 * KEYS * STRIDE);
  WarpRows<DIM, COLUMNS> w;
  // Tiles begin at multiples of their size, so that a row's sums do not depend on `begin`.
  int at = begin / KEYS * KEYS;
  if (at < end) copy_tile<DIM, KEYS, LATENT_THREADS>(tiles, keys, threadIdx.x, at, begin, end);
  load_rows(w, high, low, q, rows, scores, rows.first, rows.count, group, kv_heads, kv_head,
            warp == 0);
  for (int turn = 0; at < end; at += KEYS, turn ^= 1) {
    float weights[KEYS / 8][4];
    const u16* tile = tiles + turn * KEYS * STRIDE;
    cp_async_wait<0>();
    __syncthreads();  // the tile is there, and the queries; the other tile and products are used up
    if (at + KEYS < end) {
      u16* next = tiles + (turn ^ 1) * KEYS * STRIDE;
      copy_tile<DIM, KEYS, LATENT_THREADS>(next, keys, threadIdx.x, at + KEYS, begin, end);
    }
    multiply_part<DIM>(products, high, low, tile);
    __syncthreads();  // the products are there
    gather_products(weights, products);
    soften<DIM, KEYS>(w, weights, scores, at);
    multiply_values<DIM, KEYS>(w, weights, tile + warp * COLUMNS);
  }
  int token = decode_token(seq, most_tokens, query_starts);
  leave_rows<DIM, VALUES>(out, partials, states, w, rows, splits, scores, token, group, kv_heads,
                          kv_head);
}

KERNEL_RESIDENT(attention_latent_576, 128, 2,
                (float* out, float* partials, float* states, const float* q, const u16* k,
                 const int* query_starts, const int* kv_lens, const int* block_tables,
                 int blocks_per_seq, int kv_heads, int group, float scale, float softcap,
                 int window, const float* sinks, int most_tokens)) {
  attention_latent<576, 512>(out, partials, states, q, k, query_starts, kv_lens, block_tables,
                             blocks_per_seq, kv_heads, group,
                             Scores{scale, softcap, window, true, sinks}, most_tokens);
}
