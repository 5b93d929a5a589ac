// Attention by plain multiply-adds: for the cache types and head widths that `attention_decode.cu`
// and `attention_prefill.cu` have no kernels for, and for values that are the first ones of each key
// unless `attention_latent.cu` has one; then `v` is null. As there, sequences of few tokens have
// their contexts split over blocks, and sequences of many have not.
//
// Reference shape, heads of 128 values in F32, 32 over 8. One token after 4096 positions: reads
// 33.6 MB of keys and values once; 67 Mflop, 2 flop a byte, so memory is the limit. 2048 tokens:
// 34 Gflop; tiles of eight rows read what they see, 8.6 GB altogether, nearly all from the
// second-level cache.
#include "attention_rows.cuh"

// Block (split, kv_head · tile, seq). Where a sequence has one split, its output is final.
// `q`: [T, heads, head_dim]; `out`: [T, heads, value_dim]; `partials`: [tokens, heads, gridDim.x,
// value_dim]; `states`: the same without value_dim, of pairs (max, sum).
template <KvType TYPE>
DEVICE void attention_plain_split(float* out, float* partials, float* states, const float* q,
                                  const u8* k, const u8* v, const u16* k_scales,
                                  const u16* v_scales, const int* query_starts,
                                  const int* kv_lens, const int* block_tables,
                                  int blocks_per_seq, int kv_heads, int group, int head_dim,
                                  int value_dim, const Scores& scores, int most_tokens) {
  int seq = blockIdx.z, kv_head = blockIdx.y % kv_heads;
  QueryRows rows;
  Splits splits;
  bool some = decode_rows(rows, splits, seq, blockIdx.y / kv_heads, ROWS_TILE, blockIdx.x, group,
                          most_tokens, scores.window, query_starts, kv_lens);
  if (!some) return;
  int begin, end;
  split_seen(begin, end, rows, splits, blockIdx.x, scores, group);
  const int* table = block_tables + (i64)seq * blocks_per_seq;
  PagedRows keys = {k, k_scales, table, kv_heads, kv_head};
  PagedRows values = {v, v_scales, table, kv_heads, kv_head};

  DYNAMIC_SHARED(u8, memory);
  RowsShared s = rows_shared<TYPE>(memory, head_dim, v != nullptr);
  float acc[ROWS_ITEMS][8];
  load_queries(s, q, rows, group, kv_heads, kv_head, head_dim);
  // Where the split has nothing to be seen, the state is that of nothing.
  attend_rows<TYPE>(acc, s, rows, scores, keys, values, begin, max(begin, end), group, head_dim,
                    value_dim);
  if (splits.count == 1) {
    write_rows(out, acc, s, rows, scores, group, kv_heads, kv_head, value_dim);
    return;
  }
  int first = decode_token(seq, most_tokens, query_starts), row_splits = gridDim.x;
  int chunks = value_dim / 8;
#pragma unroll
  for (int n = 0; n < ROWS_ITEMS; n++) {
    int item = threadIdx.x + n * ROWS_THREADS;
    if (item >= rows.count * chunks) break;
    int row = item / chunks;
    i64 at = query_offset(first, rows.first + row, group, kv_heads, kv_head, row_splits);
    at += blockIdx.x;
    float* to = partials + at * value_dim + item % chunks * 8;
#pragma unroll
    for (int i = 0; i < 8; i++) to[i] = acc[n][i];
  }
  if (threadIdx.x < rows.count) {
    int row = threadIdx.x;
    i64 at = query_offset(first, rows.first + row, group, kv_heads, kv_head, row_splits);
    at += blockIdx.x;
    states[2 * at] = s.max[row];
    states[2 * at + 1] = s.sum[row];
  }
}

#define ATTENTION_PLAIN_SPLIT(name, type)                                                         \
  KERNEL_RESIDENT(name, 128, 5,                                                                   \
         (float* out, float* partials, float* states, const float* q, const u8* k, const u8* v,   \
          const u16* k_scales, const u16* v_scales, const int* query_starts, const int* kv_lens,  \
          const int* block_tables, int blocks_per_seq, int kv_heads, int group, int head_dim,     \
          int value_dim, float scale, float softcap, int window, const float* sinks,              \
          int most_tokens)) {                                                                     \
    attention_plain_split<type>(out, partials, states, q, k, v, k_scales, v_scales,               \
                                query_starts, kv_lens, block_tables, blocks_per_seq, kv_heads,    \
                                group, head_dim, value_dim,                                       \
                                Scores{scale, softcap, window, true, sinks}, most_tokens);        \
  }
ATTENTION_PLAIN_SPLIT(attention_plain_split_f16, KV_F16)
ATTENTION_PLAIN_SPLIT(attention_plain_split_bf16, KV_BF16)
ATTENTION_PLAIN_SPLIT(attention_plain_split_f32, KV_F32)
ATTENTION_PLAIN_SPLIT(attention_plain_split_e4m3, KV_E4M3)
ATTENTION_PLAIN_SPLIT(attention_plain_split_q8_0, KV_Q8_0)

// Block (tile, kv_head). `q`: [T, heads, head_dim]; `out`: [T, heads, value_dim]
template <KvType TYPE>
DEVICE void attention_plain(float* out, const float* q, const u8* k, const u8* v,
                            const u16* k_scales, const u16* v_scales, const int* query_starts,
                            const int* kv_lens, const int* block_tables, int blocks_per_seq,
                            int seqs, int group, int head_dim, int value_dim,
                            const Scores& scores, int most_tokens) {
  int kv_head = blockIdx.y, kv_heads = gridDim.y;
  QueryRows rows;
  if (!prefill_rows(rows, ROWS_TILE, group, most_tokens, seqs, query_starts, kv_lens)) return;
  const int* table = block_tables + (i64)rows.seq * blocks_per_seq;
  PagedRows keys = {k, k_scales, table, kv_heads, kv_head};
  PagedRows values = {v, v_scales, table, kv_heads, kv_head};

  DYNAMIC_SHARED(u8, memory);
  RowsShared s = rows_shared<TYPE>(memory, head_dim, v != nullptr);
  float acc[ROWS_ITEMS][8];
  load_queries(s, q, rows, group, kv_heads, kv_head, head_dim);
  attend_rows<TYPE>(acc, s, rows, scores, keys, values, first_seen(rows, scores, group),
                    end_seen(rows, scores, group), group, head_dim, value_dim);
  write_rows(out, acc, s, rows, scores, group, kv_heads, kv_head, value_dim);
}

#define ATTENTION_PLAIN(name, type)                                                               \
  KERNEL_RESIDENT(name, 128, 5,                                                                   \
         (float* out, const float* q, const u8* k, const u8* v, const u16* k_scales,              \
          const u16* v_scales, const int* query_starts, const int* kv_lens,                       \
          const int* block_tables, int blocks_per_seq, int seqs, int group, int head_dim,         \
          int value_dim, float scale, float softcap, int window, const float* sinks,              \
          int most_tokens)) {                                                                     \
    attention_plain<type>(out, q, k, v, k_scales, v_scales, query_starts, kv_lens, block_tables,  \
                          blocks_per_seq, seqs, group, head_dim, value_dim,                       \
                          Scores{scale, softcap, window, true, sinks}, most_tokens);              \
  }
ATTENTION_PLAIN(attention_plain_f16, KV_F16)
ATTENTION_PLAIN(attention_plain_bf16, KV_BF16)
ATTENTION_PLAIN(attention_plain_f32, KV_F32)
ATTENTION_PLAIN(attention_plain_e4m3, KV_E4M3)
ATTENTION_PLAIN(attention_plain_q8_0, KV_Q8_0)
