// Attention of the sequences that have many tokens in a step, on tensor cores, over a cache in F16
// with heads of 64, 96, 128 or 256 values. A block takes 64 query rows, 16 a warp, through all that
// they see; the keys of the next tile are under way while values are multiplied, and the other way
// round.
//
// Reference shape, 2048 tokens with 32 heads over 8 of 128 values: 34 Gflop, twice that as queries
// and weights are two halves each; 1024 tiles of rows read what they see, 0.5 MB of keys and values
// on average, 0.55 GB altogether and nearly all from the second-level cache; from memory 75 MB of
// queries and outputs and keys and values. On tensor cores of 400 Tflop/s at least 0.17 ms.
#include "attention_mma.cuh"

constexpr int PREFILL_ROWS = 64;
constexpr int PREFILL_THREADS = 128;

// Positions of a tile: as many as there are registers and shared memory for.
template <int DIM>
constexpr int PREFILL_KEYS = DIM > 128 ? 16 : 64;

// Block (tile, kv_head). `out`, `q`: [T, heads, DIM]
template <int DIM>
DEVICE void attention_prefill(float* out, const float* q, const u16* k, const u16* v,
                              const int* query_starts, const int* kv_lens,
                              const int* block_tables, int blocks_per_seq, int seqs, int group,
                              const Scores& scores, int most_tokens) {
  constexpr int KEYS = PREFILL_KEYS<DIM>, STRIDE = MMA_STRIDE<DIM>;
  int kv_head = blockIdx.y, kv_heads = gridDim.y, warp = threadIdx.x / 32;
  QueryRows rows;
  // The last tiles see most: they begin first.
  int tile = gridDim.x - 1 - blockIdx.x;
  if (!find_tile(rows, tile, PREFILL_ROWS, group, most_tokens, seqs, query_starts)) return;
  rows.kv_len = kv_lens[rows.seq];
  rows.position = rows.kv_len - (query_starts[rows.seq + 1] - rows.token);
  const int* table = block_tables + (i64)rows.seq * blocks_per_seq;
  PagedRows keys = {reinterpret_cast<const u8*>(k), nullptr, table, kv_heads, kv_head};
  PagedRows values = {reinterpret_cast<const u8*>(v), nullptr, table, kv_heads, kv_head};
  int begin = first_seen(rows, scores, group), end = end_seen(rows, scores, group);

  DYNAMIC_SHARED(u16, memory);  // [PREFILL_ROWS, STRIDE] twice, [KEYS, STRIDE] twice
  u16* high = memory + warp * MMA_ROWS * STRIDE;
  u16* low = high + PREFILL_ROWS * STRIDE;
  u16* k_tile = memory + 2 * PREFILL_ROWS * STRIDE;
  u16* v_tile = k_tile + KEYS * STRIDE;
  int first = warp * MMA_ROWS, count = min(MMA_ROWS, rows.count - first);
  WarpRows<DIM> w;
  // Tiles begin at multiples of their size, so that a row's sums do not depend on where others
  // begin.
  int at = begin / KEYS * KEYS;
  copy_tile<DIM, KEYS, PREFILL_THREADS>(k_tile, keys, threadIdx.x, at, begin, end);
  load_rows(w, high, low, q, rows, scores, rows.first + first, count, group, kv_heads, kv_head,
            true);
  for (; at < end; at += KEYS) {
    float weights[KEYS / 8][4];
    copy_tile<DIM, KEYS, PREFILL_THREADS>(v_tile, values, threadIdx.x, at, begin, end);
    cp_async_wait<1>();
    __syncthreads();  // the keys are there
    if (count > 0) {
      multiply_keys<DIM, KEYS>(weights, high, low, k_tile);
      soften<DIM, KEYS>(w, weights, scores, at);
    }
    cp_async_wait<0>();
    __syncthreads();  // the values are there; the keys are used up
    if (at + KEYS < end) {
      copy_tile<DIM, KEYS, PREFILL_THREADS>(k_tile, keys, threadIdx.x, at + KEYS, begin, end);
    }
    if (count > 0) multiply_values<DIM, KEYS>(w, weights, v_tile);
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
  KERNEL(name, 128,                                                                               \
         (float* out, const float* q, const u16* k, const u16* v, const int* query_starts,        \
          const int* kv_lens, const int* block_tables, int blocks_per_seq, int seqs, int group,   \
          float scale, float softcap, int window, const float* sinks, int most_tokens)) {         \
    attention_prefill<dim>(out, q, k, v, query_starts, kv_lens, block_tables, blocks_per_seq,     \
                           seqs, group, Scores{scale, softcap, window, true, sinks},              \
                           most_tokens);                                                          \
  }
ATTENTION_PREFILL(attention_prefill_64, 64)
ATTENTION_PREFILL(attention_prefill_96, 96)
ATTENTION_PREFILL(attention_prefill_128, 128)
ATTENTION_PREFILL(attention_prefill_256, 256)
