// Attention of the sequences that have many tokens in a step, on tensor cores, over a cache of type
// `KV` with heads of 64, 96, 128 or 256 values. A block takes 64 query rows, 16 a warp, through all that
// they see; the keys of the next tile are under way while values are multiplied, and the other way
// round.
//
// Reference shape, 2048 tokens with 32 heads over 8 of 128 values: 34 Gflop, twice that as queries
// and weights are two halves each; 1024 tiles of rows read what they see, 0.5 MB of keys and values
// on average, 0.55 GB altogether and nearly all from the second-level cache; from memory 75 MB of
// queries and outputs and keys and values. On tensor cores of 400 Tflop/s at least 0.17 ms; half as
// long again over BF16, whose numbers it takes three of. All that is for F16: caches of bytes are half
// as many bytes, which are widened once a tile, for 64 rows.
#include "attention_mma.cuh"

constexpr int PREFILL_ROWS = 64;
constexpr int PREFILL_THREADS = 128;

// Positions of a tile: as many as there are registers and shared memory for.
template <int DIM>
constexpr int PREFILL_KEYS = DIM > 128 ? 16 : 64;

// Blocks of a multiprocessor that registers are shared out for; 0 where that is left to the compiler.
template <int DIM>
constexpr int PREFILL_BLOCKS = KV == KV_Q8_0 && DIM == 128 ? 2 : 0;

// Block (tile, kv_head). `out`, `q`: [T, heads, DIM]
template <int DIM>
DEVICE void attention_prefill(float* out, const float* q, const u8* k, const u8* v,
                              const u16* k_scales, const u16* v_scales, const int* query_starts,
                              const int* kv_lens, const int* block_tables, int blocks_per_seq,
                              int seqs, int group, const Scores& scores, int most_tokens) {
  constexpr int KEYS = PREFILL_KEYS<DIM>, THREADS = PREFILL_THREADS;
  int kv_head = blockIdx.y, kv_heads = gridDim.y, warp = threadIdx.x / 32;
  QueryRows rows;
  if (!prefill_rows(rows, PREFILL_ROWS, group, most_tokens, seqs, query_starts, kv_lens)) return;
  const int* table = block_tables + (i64)rows.seq * blocks_per_seq;
  PagedRows keys = {k, k_scales, table, kv_heads, kv_head};
  PagedRows values = {v, v_scales, table, kv_heads, kv_head};
  int begin = first_seen(rows, scores, group), end = end_seen(rows, scores, group);

  DYNAMIC_SHARED(u16, memory);  // WARP_QUERIES for each warp, a pair of tiles
  u16* queries = memory + warp * WARP_QUERIES<DIM>;
  u8* tiles = reinterpret_cast<u8*>(memory + PREFILL_ROWS / MMA_ROWS * WARP_QUERIES<DIM>);
  using Tile = KvTile<KV, DIM, KEYS>;
  Tile k_tile = Tile::of_pair(tiles, 0), v_tile = Tile::of_pair(tiles, 1);
  int first = warp * MMA_ROWS, count = min(MMA_ROWS, rows.count - first);
  WarpRows<DIM> w;
  // Tiles begin at multiples of their size, so that a row's sums do not depend on where others
  // begin.
  int at = begin / KEYS * KEYS;
  copy_tile<THREADS>(k_tile, keys, threadIdx.x, at, begin, end);
  load_rows<KV>(w, queries, q, rows, scores, rows.first + first, count, group, kv_heads, kv_head,
                true);
  for (; at < end; at += KEYS) {
    float weights[KEYS / 8][4];
    copy_tile<THREADS>(v_tile, values, threadIdx.x, at, begin, end);
    cp_async_wait<1>();
    __syncthreads();  // the keys are there
    if constexpr (WIDENED<KV>) {
      widen_tile<THREADS>(k_tile, threadIdx.x, at, begin, end);
      __syncthreads();
    }
    if (count > 0) {
      multiply_keys(weights, queries, k_tile);
      soften<DIM, KEYS>(w, weights, scores, at);
    }
    cp_async_wait<0>();
    __syncthreads();  // the values are there; the keys are used up
    if (at + KEYS < end) copy_tile<THREADS>(k_tile, keys, threadIdx.x, at + KEYS, begin, end);
    if constexpr (WIDENED<KV>) {
      widen_tile<THREADS>(v_tile, threadIdx.x, at, begin, end);
      __syncthreads();
    }
    if (count > 0) multiply_values(w, weights, v_tile);
    __syncthreads();  // the values are used up
  }
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float sum = row_weights(w.weights[half]);
    int row = lane / 4 + 8 * half;
    if (row >= count) continue;
    row += rows.first + first;
    int head = query_head(row, group, kv_head);
    sum += sink_weight(scores.sinks, head, w.largest[half]) * WEIGHT_UNIT;
    float* to = out + query_offset(rows.token, row, group, kv_heads, kv_head, DIM);
#pragma unroll
    for (int n = 0; n < DIM / 8; n++) {
      to[n * 8 + lane % 4 * 2] = w.sums[n][2 * half] / sum;
      to[n * 8 + lane % 4 * 2 + 1] = w.sums[n][2 * half + 1] / sum;
    }
  }
}

#define ATTENTION_PREFILL(name, dim)                                                              \
  KERNEL_RESIDENT(name, 128, PREFILL_BLOCKS<dim>,                                                 \
         (float* out, const float* q, const u8* k, const u8* v, const u16* k_scales,              \
          const u16* v_scales, const int* query_starts, const int* kv_lens,                       \
          const int* block_tables, int blocks_per_seq, int seqs, int group, float scale,          \
          float softcap, int window, const float* sinks, int most_tokens)) {                      \
    attention_prefill<dim>(out, q, k, v, k_scales, v_scales, query_starts, kv_lens, block_tables, \
                           blocks_per_seq, seqs, group,                                           \
                           Scores{scale, softcap, window, true, sinks}, most_tokens);             \
  }
ATTENTION_PREFILL(attention_prefill_64, 64)
ATTENTION_PREFILL(attention_prefill_96, 96)
ATTENTION_PREFILL(attention_prefill_128, 128)
ATTENTION_PREFILL(attention_prefill_256, 256)
