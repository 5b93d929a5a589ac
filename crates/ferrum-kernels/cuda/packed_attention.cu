// Attention within the sequences of a packed batch, in both directions and without a cache.
//
// Reference shape, 2048 tokens in four sequences with 12 heads of 64 values (BERT): 3.2 Gflop of
// multiply-adds; each tile of eight tokens reads the keys and values of its sequence, 0.8 GB
// altogether, nearly all from the second-level cache, and 25 MB from memory.
#include "attention_rows.cuh"

// Block (tile, kv_head). `out`, `q`: [T, heads, head_dim]; `k`, `v`: [T, kv_heads, head_dim]
KERNEL(packed_attention, 128,
       (float* out, const float* q, const float* k, const float* v, const int* query_starts,
        int seqs, int group, int head_dim, float scale)) {
  int kv_head = blockIdx.y, kv_heads = gridDim.y;
  QueryRows rows;
  if (!find_tile(rows, blockIdx.x, ROWS_TILE, group, 0, seqs, query_starts)) return;
  rows.kv_len = query_starts[rows.seq + 1] - rows.token;
  rows.position = 0;
  Scores scores = {scale, 0.0f, 0, false, nullptr};
  PackedRows keys = {reinterpret_cast<const u8*>(k), nullptr, rows.token, kv_heads, kv_head};
  PackedRows values = {reinterpret_cast<const u8*>(v), nullptr, rows.token, kv_heads, kv_head};

  DYNAMIC_SHARED(u8, memory);
  RowsShared s = rows_shared<KV_F32>(memory, head_dim, true);
  float acc[ROWS_ITEMS][8];
  load_queries(s, q, rows, group, kv_heads, kv_head, head_dim);
  attend_rows<KV_F32>(acc, s, rows, scores, keys, values, 0, rows.kv_len, group, head_dim,
                      head_dim);
  write_rows(out, acc, s, rows, scores, group, kv_heads, kv_head, head_dim);
}
