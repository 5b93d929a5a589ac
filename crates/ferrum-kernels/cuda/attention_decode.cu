// Attention of the sequences that have few tokens in a step: decodes, and drafts to be verified. The
// context is split over blocks, whose states are merged by a second kernel. Every cache type and
// head width.
//
// Reference shape, one sequence with 32 heads over 8 of 128 values and 4096 positions in F16: reads
// 16.8 MB of keys and values once, writes and reads again 0.5 MB of states (32 splits); 67 Mflop,
// 4 flop a byte, so memory is the limit.
#include "attention_rows.cuh"

// Block (split, kv_head · tile, seq). Where a sequence has one split, its output is final.
// `out`, `q`: [T, heads, head_dim]; `partials`: [tokens, heads, gridDim.x, head_dim];
// `states`: the same without head_dim, of pairs (max, sum).
template <KvType TYPE>
DEVICE void attention_decode(float* out, float* partials, float* states, const float* q,
                             const u8* k, const u8* v, const u16* k_scales, const u16* v_scales,
                             const int* query_starts, const int* kv_lens, const int* block_tables,
                             int blocks_per_seq, int kv_heads, int group, int head_dim,
                             const Scores& scores, int most_tokens) {
  int seq = blockIdx.z, kv_head = blockIdx.y % kv_heads, tile = blockIdx.y / kv_heads;
  int token = query_starts[seq], tokens = query_starts[seq + 1] - token;
  int all = tokens * group, kv_len = kv_lens[seq];
  Splits splits = splits_of(kv_len, tokens, scores.window);
  if (tokens > most_tokens || tile * ROWS_TILE >= all || blockIdx.x >= splits.count) return;

  QueryRows rows = {seq, token, tile * ROWS_TILE, min(ROWS_TILE, all - tile * ROWS_TILE),
                    kv_len - tokens, kv_len};
  int begin = (splits.first + (int)blockIdx.x) * splits.len;
  int end = min(begin + splits.len, end_seen(rows, scores, group));
  begin = max(begin, first_seen(rows, scores, group));
  const int* table = block_tables + (i64)seq * blocks_per_seq;
  PagedRows keys = {k, k_scales, table, kv_heads, kv_head};
  PagedRows values = {v, v_scales, table, kv_heads, kv_head};

  DYNAMIC_SHARED(u8, memory);
  RowsShared s = rows_shared<TYPE>(memory, head_dim);
  float acc[ROWS_ITEMS][8];
  load_queries(s, q, rows, group, kv_heads, kv_head, head_dim);
  // A window or the step's own tokens may leave a split nothing: then the state is that of nothing.
  attend_rows<TYPE>(acc, s, rows, scores, keys, values, begin, max(begin, end), group, head_dim);
  if (splits.count == 1) {
    write_rows(out, acc, s, rows, group, kv_heads, kv_head, head_dim);
    return;
  }
  int first = decode_token(seq, most_tokens, query_starts);
  int chunks = head_dim / 8;
#pragma unroll
  for (int n = 0; n < ROWS_ITEMS; n++) {
    int item = threadIdx.x + n * ROWS_THREADS;
    if (item >= rows.count * chunks) break;
    int row = item / chunks;
    i64 at = query_offset(first, rows.first + row, group, kv_heads, kv_head, gridDim.x) + blockIdx.x;
    float* to = partials + at * head_dim + item % chunks * 8;
#pragma unroll
    for (int i = 0; i < 8; i++) to[i] = acc[n][i];
  }
  if (threadIdx.x < rows.count) {
    int row = threadIdx.x;
    i64 at = query_offset(first, rows.first + row, group, kv_heads, kv_head, gridDim.x) + blockIdx.x;
    states[2 * at] = s.max[row];
    states[2 * at + 1] = s.sum[row];
  }
}

#define ATTENTION_DECODE(name, type)                                                              \
  KERNEL(name, 128,                                                                               \
         (float* out, float* partials, float* states, const float* q, const u8* k, const u8* v,   \
          const u16* k_scales, const u16* v_scales, const int* query_starts, const int* kv_lens,  \
          const int* block_tables, int blocks_per_seq, int kv_heads, int group, int head_dim,     \
          float scale, float softcap, int window, int most_tokens)) {                             \
    attention_decode<type>(out, partials, states, q, k, v, k_scales, v_scales, query_starts,      \
                           kv_lens, block_tables, blocks_per_seq, kv_heads, group, head_dim,      \
                           Scores{scale, softcap, window, true}, most_tokens);                    \
  }
ATTENTION_DECODE(attention_decode_f16, KV_F16)
ATTENTION_DECODE(attention_decode_f32, KV_F32)
ATTENTION_DECODE(attention_decode_q8_0, KV_Q8_0)

// Merges the states of a row's splits, in order. Block (head, token of the sequence, seq);
// `row_splits` is `gridDim.x` of the kernel above.
KERNEL(attention_merge, 128,
       (float* out, const float* partials, const float* states, const int* query_starts,
        const int* kv_lens, int row_splits, int head_dim, int window, int most_tokens)) {
  int head = blockIdx.x, heads = gridDim.x, row = blockIdx.y, seq = blockIdx.z;
  int token = query_starts[seq], tokens = query_starts[seq + 1] - token;
  int splits = splits_of(kv_lens[seq], tokens, window).count;
  if (tokens > most_tokens || row >= tokens || splits == 1) return;

  int first = decode_token(seq, most_tokens, query_starts);
  i64 at = ((i64)(first + row) * heads + head) * row_splits;
  const float* state = states + 2 * at;
  float largest = NEGATIVE_INFINITY;
  for (int i = 0; i < splits; i++) largest = fmaxf(largest, state[2 * i]);
  for (int d = threadIdx.x; d < head_dim; d += 128) {
    float acc = 0.0f, sum = 0.0f;
    for (int i = 0; i < splits; i++) {
      float factor = exp2f(state[2 * i] - largest);
      sum = fmaf(factor, state[2 * i + 1], sum);
      acc = fmaf(factor, partials[(at + i) * head_dim + d], acc);
    }
    out[((i64)(token + row) * heads + head) * head_dim + d] = acc / sum;
  }
}
