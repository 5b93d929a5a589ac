// What the attention kernels share: where keys and values lie, which rows a block works on, and the
// shape of the work.
//
// Query rows. The heads of a group share their keys and values, so a kernel takes them together:
// packed row `r` of a sequence is head `r % group` of the group, of the sequence's token `r /
// group`.
//
// Scores are exponents of two, `log2(e) · softcap(scale · q·k)`, and the softmax goes online
// through tiles of positions that begin at multiples of the tile (Milakov & Gimelshein 2018,
// arXiv:1805.02867). What a row gets depends on nothing but its query and what it sees: rows that
// it shares a tile with, and positions that are hidden from it, change no bit.
#pragma once
#include "e4m3.cuh"

constexpr int KV_BLOCK = 32;        // positions of a cache block: KV_BLOCK_SIZE
constexpr int SCALE_GROUP = 32;     // values of a scale: KV_SCALE_GROUP
constexpr float LOG2_E = 1.44269504f;
#define NEGATIVE_INFINITY __uint_as_float(0xff800000u)

// Element types of a cache.
enum KvType { KV_F16, KV_BF16, KV_F32, KV_E4M3, KV_Q8_0 };

template <KvType TYPE>
constexpr int VALUE_BYTES = TYPE == KV_F32 ? 4 : TYPE == KV_F16 || TYPE == KV_BF16 ? 2 : 1;

// Eight values of a row, widened: number `chunk` of its eights.
template <KvType TYPE>
DEVICE void load8(float x[8], const u8* row, const u16* scales, int chunk) {
  if constexpr (TYPE == KV_F32) {
    const float4* from = reinterpret_cast<const float4*>(row) + 2 * chunk;
    float4 a = from[0], b = from[1];
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
    x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
  } else if constexpr (TYPE == KV_F16 || TYPE == KV_BF16) {
    uint4 v = reinterpret_cast<const uint4*>(row)[chunk];
    const u32 pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 8; i++) {
      u16 bits = (u16)(pairs[i / 2] >> 16 * (i % 2));
      x[i] = TYPE == KV_F16 ? f16_to_f32(bits) : bf16_to_f32(bits);
    }
  } else if constexpr (TYPE == KV_E4M3) {
    uint2 v = reinterpret_cast<const uint2*>(row)[chunk];
    const u32 fours[2] = {v.x, v.y};
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = e4m3_to_f32((u8)(fours[i / 4] >> 8 * (i % 4)));
  } else {
    uint2 v = reinterpret_cast<const uint2*>(row)[chunk];
    const u32 fours[2] = {v.x, v.y};
    float scale = f16_to_f32(scales[chunk / (SCALE_GROUP / 8)]);
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = scale * (float)(i8)(fours[i / 4] >> 8 * (i % 4));
  }
}

// Keys or values of one head of a sequence in a paged cache: `[blocks, kv_heads, KV_BLOCK,
// head_dim]`, with the scales of Q8_0 in `[blocks, kv_heads, KV_BLOCK, head_dim / SCALE_GROUP]`.
struct PagedRows {
  const u8* values;
  const u16* scales;
  const int* table;  // the sequence's row of the block tables
  int kv_heads, kv_head;

  // Row number of the first position of block `i` of the sequence.
  __device__ __forceinline__ i64 first_row(int i) const {
    return ((i64)table[i] * kv_heads + kv_head) * KV_BLOCK;
  }
  // Rows from one position to the next.
  __device__ __forceinline__ int stride() const { return 1; }
};

// Keys or values of one head of a sequence that lies in `[T, kv_heads, head_dim]`.
struct PackedRows {
  const u8* values;
  const u16* scales;
  int start;  // the sequence's first token
  int kv_heads, kv_head;

  __device__ __forceinline__ i64 first_row(int i) const {
    return (i64)(start + i * KV_BLOCK) * kv_heads + kv_head;
  }
  __device__ __forceinline__ int stride() const { return kv_heads; }
};

// Some query rows of one sequence, and what they may see.
struct QueryRows {
  int seq;
  int token;     // first token of the sequence in the step
  int first;     // first packed row
  int count;     // packed rows
  int position;  // position of the sequence's first token in the step
  int kv_len;    // positions of the sequence
};

// What becomes of a score.
struct Scores {
  float scale;
  float softcap;  // none if 0
  int window;     // positions that a token sees, itself among them
  bool causal;
  const float* sinks;  // [heads], none if null

  // Whether a token at `position` sees the keys at `at`.
  __device__ __forceinline__ bool sees(int position, int at) const {
    return !causal || (at <= position && at > position - window);
  }
  // The exponent of two that a product of a query and a key gives; `scale` as above, or with more
  // in it.
  __device__ __forceinline__ float exponent(float product, float scale) const {
    float score = product * scale;
    if (softcap > 0.0f) score = softcap * tanhf(score / softcap);
    return score * LOG2_E;
  }
};

// The weight of the sink of head `head` beside those of a row whose largest exponent is `largest`.
// It is added where the row's sums are divided, and so once.
DEVICE float sink_weight(const float* sinks, int head, float largest) {
  return sinks == nullptr ? 0.0f : exp2f(sinks[head] * LOG2_E - largest);
}

DEVICE int ceil_div(int a, int b) { return (a + b - 1) / b; }

// The first position that any of the rows sees; past the last.
DEVICE int first_seen(const QueryRows& rows, const Scores& scores, int group) {
  int position = rows.position + rows.first / group;
  return scores.causal ? max(0, position - scores.window + 1) : 0;
}
DEVICE int end_seen(const QueryRows& rows, const Scores& scores, int group) {
  int last = rows.position + (rows.first + rows.count - 1) / group;
  return scores.causal ? last + 1 : rows.kv_len;
}

// The query head of packed row `row`.
DEVICE int query_head(int row, int group, int kv_head) { return kv_head * group + row % group; }

// Where packed row `row` of a sequence lies in `[T, heads, head_dim]`.
DEVICE i64 query_offset(int token, int row, int group, int kv_heads, int kv_head, int head_dim) {
  i64 head = (i64)(token + row / group) * kv_heads * group + query_head(row, group, kv_head);
  return head * head_dim;
}

// Finds tile `index` of those that all sequences of more than `least` tokens are cut into, of
// `tile` packed rows each; whether there is one. By whole warps. The number of sequences is the
// grid's concern: it has at least as many blocks as there are tiles.
DEVICE bool find_tile(QueryRows& rows, int index, int tile, int group, int least, int seqs,
                      const int* query_starts) {
  int lane = threadIdx.x % 32, before = 0;
  for (int base = 0; base < seqs; base += 32) {
    int seq = min(base + lane, seqs - 1);
    int tokens = query_starts[seq + 1] - query_starts[seq];
    bool cut = base + lane < seqs && tokens > least;
    int through = cut ? ceil_div(tokens * group, tile) : 0;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      int lower = __shfl_up_sync(0xffffffffu, through, step);
      if (lane >= step) through += lower;
    }
    // Lanes whose tiles end before this one come first.
    int owner = __popc(__ballot_sync(0xffffffffu, before + through <= index));
    int preceding = __shfl_sync(0xffffffffu, through, max(owner - 1, 0));
    if (owner < 32) {
      rows.seq = base + owner;
      rows.token = query_starts[rows.seq];
      rows.first = (index - before - (owner > 0 ? preceding : 0)) * tile;
      int all = (query_starts[rows.seq + 1] - rows.token) * group;
      rows.count = min(tile, all - rows.first);
      return true;
    }
    before += __shfl_sync(0xffffffffu, through, 31);
  }
  return false;
}

// This block's tile of `rows_tile` packed rows, of a paged step's sequences of more than `most_tokens`
// tokens; whether there is one. By whole warps.
DEVICE bool prefill_rows(QueryRows& rows, int rows_tile, int group, int most_tokens, int seqs,
                         const int* query_starts, const int* kv_lens) {
  // The last tiles see most: they begin first.
  int tile = gridDim.x - 1 - blockIdx.x;
  if (!find_tile(rows, tile, rows_tile, group, most_tokens, seqs, query_starts)) return false;
  rows.kv_len = kv_lens[rows.seq];
  rows.position = rows.kv_len - (query_starts[rows.seq + 1] - rows.token);
  return true;
}

// --- splits: a long context is shared out among blocks (Dao et al. 2023, "Flash-Decoding")
//
// A split begins at a multiple of its length, which depends on nothing but what the sequence sees:
// a row's result is the same in every batch. The launcher has the same numbers.

constexpr int SPLIT_LEAST = 128;   // positions: enough to make up for the state that is merged
constexpr int SPLITS_AIM = 64;     // splits of a long context: eight heads make 512 blocks

DEVICE int split_len(int kv_len, int window) {
  int seen = min(kv_len, window), len = SPLIT_LEAST;
  while ((i64)len * SPLITS_AIM < seen) len *= 2;
  return len;
}

// The splits that a sequence sees something of.
struct Splits {
  int len, first, count;
};

DEVICE Splits splits_of(int kv_len, int tokens, int window) {
  Splits splits;
  splits.len = split_len(kv_len, window);
  splits.first = max(0, kv_len - tokens + 1 - window) / splits.len;
  splits.count = ceil_div(kv_len, splits.len) - splits.first;
  return splits;
}

// Number of the first token of sequence `seq` among the tokens of all sequences of at most `most`
// tokens, in whose order partial states lie. By whole warps.
DEVICE int decode_token(int seq, int most, const int* query_starts) {
  int lane = threadIdx.x % 32, before = 0;
  for (int i = lane; i < seq; i += 32) {
    int tokens = query_starts[i + 1] - query_starts[i];
    before += tokens <= most ? tokens : 0;
  }
#pragma unroll
  for (int m = 16; m > 0; m >>= 1) before += __shfl_xor_sync(0xffffffffu, before, m);
  return before;
}

// Tile `tile` of `rows_tile` packed rows of sequence `seq`, and the sequence's splits; whether
// there is the tile, and split `split` of them, and the sequence has few tokens.
DEVICE bool decode_rows(QueryRows& rows, Splits& splits, int seq, int tile, int rows_tile,
                        int split, int group, int most_tokens, int window, const int* query_starts,
                        const int* kv_lens) {
  int token = query_starts[seq], tokens = query_starts[seq + 1] - token, kv_len = kv_lens[seq];
  int first = tile * rows_tile, count = min(rows_tile, tokens * group - first);
  rows = QueryRows{seq, token, first, count, kv_len - tokens, kv_len};
  splits = splits_of(kv_len, tokens, window);
  return tokens <= most_tokens && count > 0 && split < splits.count;
}

// The positions `begin .. end` of split `split` that any of the rows sees: none where a window or the
// step's own tokens leave it nothing, and then `end` may be less than `begin`.
DEVICE void split_seen(int& begin, int& end, const QueryRows& rows, const Splits& splits, int split,
                       const Scores& scores, int group) {
  begin = (splits.first + split) * splits.len;
  end = min(begin + splits.len, end_seen(rows, scores, group));
  begin = max(begin, first_seen(rows, scores, group));
}
