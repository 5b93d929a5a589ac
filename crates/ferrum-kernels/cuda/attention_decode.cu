// Attention of the sequences that have few tokens in a step, on tensor cores, over a cache of type `KV`
// with heads of 64, 96, 128 or 256 values: decodes, and drafts to be verified. The context is split
// over blocks, and a split over the four warps of a block, each of which copies its own keys and
// values and waits for nobody; `attention_merge` brings the splits together.
//
// Reference shape, one token with 32 heads over 8 of 128 values after 4096 positions: reads 16.8 MB
// of keys and values in F16 once, writes and reads again 0.5 MB of states (32 splits); 67 Mflop, 4 flop a
// byte, so memory is the limit: 5 us at 3.35 TB/s. A block of 128 positions asks for all of its 64
// KB at once. Tensor cores multiply 16 rows whether there are as many or not, which still takes a
// fifth of the time that memory does.
#include "attention_mma.cuh"

constexpr int DECODE_WARPS = 4;

// Positions of a tile: as many as leave shared memory for the widest heads.
template <int DIM>
constexpr int DECODE_KEYS = DIM > 128 ? 16 : 32;

// Bytes of a warp's keys and values. Its sums take their place in the end: [16, DIM] of floats.
template <int DIM>
constexpr int DECODE_SUMS = MMA_ROWS * DIM * 4;
template <int DIM>
using Tile = KvTile<KV, DIM, DECODE_KEYS<DIM>>;
template <int DIM>
constexpr int DECODE_TILES = Tile<DIM>::PAIR > DECODE_SUMS<DIM> ? Tile<DIM>::PAIR : DECODE_SUMS<DIM>;

// This warp's part of the positions `begin .. end`: every fourth tile.
template <int DIM>
DEVICE void attend_tiles(WarpRows<DIM>& w, const u16* queries, u8* tiles, const PagedRows& keys,
                         const PagedRows& values, const Scores& scores, int begin, int end) {
  constexpr int KEYS = DECODE_KEYS<DIM>, STEP = DECODE_WARPS * KEYS;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  Tile<DIM> k_tile = Tile<DIM>::of_pair(tiles, 0), v_tile = Tile<DIM>::of_pair(tiles, 1);
  // Which warp takes a tile depends on the tile alone, so that sums do not depend on `begin`.
  int first = begin / KEYS;
  int ahead = (warp - first % DECODE_WARPS + DECODE_WARPS) % DECODE_WARPS;
  int at = (first + ahead) * KEYS;
  if (at < end) copy_tile<32>(k_tile, keys, lane, at, begin, end);
  for (; at < end; at += STEP) {
    float weights[KEYS / 8][4];
    copy_tile<32>(v_tile, values, lane, at, begin, end);
    cp_async_wait<1>();
    __syncwarp();  // the keys are there
    if constexpr (WIDENED<KV>) {
      widen_tile<32>(k_tile, lane, at, begin, end);
      __syncwarp();
    }
    multiply_keys(weights, queries, k_tile);
    soften<DIM, KEYS>(w, weights, scores, at);
    cp_async_wait<0>();
    __syncwarp();  // the values are there; the keys are used up
    if (at + STEP < end) copy_tile<32>(k_tile, keys, lane, at + STEP, begin, end);
    if constexpr (WIDENED<KV>) {
      widen_tile<32>(v_tile, lane, at, begin, end);
      __syncwarp();
    }
    multiply_values(w, weights, v_tile);
    __syncwarp();  // the values are used up
  }
}

// Leaves this warp's sums in `sums`, [16, DIM], and its state in `states`, [16] of (max, sum).
template <int DIM>
DEVICE void leave_state(float* sums, float* states, const WarpRows<DIM>& w) {
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int row = lane / 4 + 8 * half;
    float weights = row_weights(w.weights[half]);
    if (lane % 4 == 0) states[2 * row] = w.largest[half], states[2 * row + 1] = weights;
#pragma unroll
    for (int n = 0; n < DIM / 8; n++) {
      sums[row * DIM + n * 8 + lane % 4 * 2] = w.sums[n][2 * half];
      sums[row * DIM + n * 8 + lane % 4 * 2 + 1] = w.sums[n][2 * half + 1];
    }
  }
}

// Block (split, kv_head · tile, seq). Where a sequence has one split, its output is final. `out`,
// `q`: [T, heads, DIM]; `partials`: [tokens, heads, gridDim.x, DIM]; `states`: the same without
// DIM, of pairs (max, sum).
template <int DIM>
DEVICE void attention_decode(float* out, float* partials, float* states, const float* q,
                             const u8* k, const u8* v, const u16* k_scales,
                             const u16* v_scales, const int* query_starts, const int* kv_lens,
                             const int* block_tables, int blocks_per_seq, int kv_heads, int group,
                             const Scores& scores, int most_tokens) {
  constexpr int TILES = DECODE_TILES<DIM>;
  int seq = blockIdx.z, kv_head = blockIdx.y % kv_heads, warp = threadIdx.x / 32;
  QueryRows rows;
  Splits splits;
  bool some = decode_rows(rows, splits, seq, blockIdx.y / kv_heads, MMA_ROWS, blockIdx.x, group,
                          most_tokens, scores.window, query_starts, kv_lens);
  if (!some) return;
  int begin, end;
  split_seen(begin, end, rows, splits, blockIdx.x, scores, group);
  const int* table = block_tables + (i64)seq * blocks_per_seq;
  PagedRows keys = {k, k_scales, table, kv_heads, kv_head};
  PagedRows values = {v, v_scales, table, kv_heads, kv_head};

  // WARP_QUERIES, DECODE_TILES for each warp, [DECODE_WARPS, 16] states
  DYNAMIC_SHARED(u16, queries);
  u8* tiles = reinterpret_cast<u8*>(queries + WARP_QUERIES<DIM>);
  float* warp_states = reinterpret_cast<float*>(tiles + DECODE_WARPS * TILES);
  WarpRows<DIM> w;
  load_rows<KV>(w, queries, q, rows, scores, rows.first, rows.count, group, kv_heads, kv_head,
                warp == 0);
  __syncthreads();  // the queries are there
  attend_tiles(w, queries, tiles + warp * TILES, keys, values, scores, begin, end);
  leave_state(reinterpret_cast<float*>(tiles + warp * TILES), warp_states + warp * 2 * MMA_ROWS, w);
  __syncthreads();

  int first = decode_token(seq, most_tokens, query_starts), row_splits = gridDim.x;
  for (int i = threadIdx.x; i < rows.count * DIM; i += DECODE_WARPS * 32) {
    int row = i / DIM, d = i % DIM;
    float largest = NEGATIVE_INFINITY, sum = 0.0f, weights = 0.0f;
#pragma unroll
    for (int n = 0; n < DECODE_WARPS; n++) {
      largest = fmaxf(largest, warp_states[(n * MMA_ROWS + row) * 2]);
    }
#pragma unroll
    for (int n = 0; n < DECODE_WARPS; n++) {
      const float* state = warp_states + (n * MMA_ROWS + row) * 2;
      // A warp that saw nothing has nothing to add. From here on weights are what they are.
      float factor = state[0] == NEGATIVE_INFINITY ? 0.0f : exp2f(state[0] - largest);
      factor *= 1.0f / WEIGHT_UNIT;
      weights = fmaf(factor, state[1], weights);
      sum = fmaf(factor, reinterpret_cast<const float*>(tiles + n * TILES)[i], sum);
    }
    if (splits.count == 1) {
      i64 to = query_offset(rows.token, rows.first + row, group, kv_heads, kv_head, DIM) + d;
      int head = query_head(rows.first + row, group, kv_head);
      out[to] = sum / (weights + sink_weight(scores.sinks, head, largest));
      continue;
    }
    i64 at = query_offset(first, rows.first + row, group, kv_heads, kv_head, row_splits);
    at += blockIdx.x;
    partials[at * DIM + d] = sum;
    if (d == 0) states[2 * at] = largest, states[2 * at + 1] = weights;
  }
}

// Shared memory has room for no more blocks on a multiprocessor of sm_80; and for scales, fewer have
// registers.
#define ATTENTION_DECODE(name, dim, blocks)                                                       \
  KERNEL_RESIDENT(name, 128, blocks,                                                              \
         (float* out, float* partials, float* states, const float* q, const u8* k, const u8* v,   \
          const u16* k_scales, const u16* v_scales, const int* query_starts, const int* kv_lens,  \
          const int* block_tables, int blocks_per_seq, int kv_heads, int group, float scale,      \
          float softcap, int window, const float* sinks, int most_tokens)) {                      \
    attention_decode<dim>(out, partials, states, q, k, v, k_scales, v_scales, query_starts,       \
                          kv_lens, block_tables, blocks_per_seq, kv_heads, group,                 \
                          Scores{scale, softcap, window, true, sinks}, most_tokens);              \
  }
ATTENTION_DECODE(attention_decode_64, 64, 4)
ATTENTION_DECODE(attention_decode_96, 96, 3)
ATTENTION_DECODE(attention_decode_128, 128, KV == KV_Q8_0 ? 2 : 3)
ATTENTION_DECODE(attention_decode_256, 256, 2)
