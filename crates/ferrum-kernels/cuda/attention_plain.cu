// Attention of the sequences that have many tokens in a step, by plain multiply-adds: for the cache
// types and head widths that `attention_prefill.cu` has no kernel for. The context is not split.
//
// Reference shape, 2048 tokens with 32 heads over 8 of 128 values in F32: 34 Gflop of multiply-adds;
// each of 1024 tiles a head of keys and values reads what it sees, 8.6 GB altogether, nearly all
// from the second-level cache.
#include "attention_rows.cuh"

// Block (tile, kv_head). `out`, `q`: [T, heads, head_dim]
template <KvType TYPE>
DEVICE void attention_plain(float* out, const float* q, const u8* k, const u8* v,
                            const u16* k_scales, const u16* v_scales, const int* query_starts,
                            const int* kv_lens, const int* block_tables, int blocks_per_seq,
                            int seqs, int group, int head_dim, const Scores& scores,
                            int most_tokens) {
  int kv_head = blockIdx.y, kv_heads = gridDim.y;
  QueryRows rows;
  if (!find_tile(rows, blockIdx.x, ROWS_TILE, group, most_tokens, seqs, query_starts)) return;
  rows.kv_len = kv_lens[rows.seq];
  rows.position = rows.kv_len - (query_starts[rows.seq + 1] - rows.token);
  const int* table = block_tables + (i64)rows.seq * blocks_per_seq;
  PagedRows keys = {k, k_scales, table, kv_heads, kv_head};
  PagedRows values = {v, v_scales, table, kv_heads, kv_head};

  DYNAMIC_SHARED(u8, memory);
  RowsShared s = rows_shared<TYPE>(memory, head_dim);
  float acc[ROWS_ITEMS][8];
  load_queries(s, q, rows, group, kv_heads, kv_head, head_dim);
  attend_rows<TYPE>(acc, s, rows, scores, keys, values, first_seen(rows, scores, group),
                    end_seen(rows, scores, group), group, head_dim);
  write_rows(out, acc, s, rows, group, kv_heads, kv_head, head_dim);
}

#define ATTENTION_PLAIN(name, type)                                                               \
  KERNEL(name, 128,                                                                               \
         (float* out, const float* q, const u8* k, const u8* v, const u16* k_scales,              \
          const u16* v_scales, const int* query_starts, const int* kv_lens,                       \
          const int* block_tables, int blocks_per_seq, int seqs, int group, int head_dim,         \
          float scale, float softcap, int window, int most_tokens)) {                             \
    attention_plain<type>(out, q, k, v, k_scales, v_scales, query_starts, kv_lens, block_tables,  \
                          blocks_per_seq, seqs, group, head_dim,                                  \
                          Scores{scale, softcap, window, true}, most_tokens);                     \
  }
ATTENTION_PLAIN(attention_plain_f16, KV_F16)
ATTENTION_PLAIN(attention_plain_f32, KV_F32)
ATTENTION_PLAIN(attention_plain_q8_0, KV_Q8_0)
