// Brings the splits of a context together, for `attention_decode.cu`, `attention_latent.cu` and
// `attention_plain.cu`.
//
// Reference shape, one token with 32 heads of 128 values in 32 splits: reads 0.5 MB, which are
// still in the second-level cache.
#include "attention.cuh"

// Merges the states of a row's splits, in order. Block (head, token of the sequence, seq);
// `row_splits` is `gridDim.x` of the kernel above.
KERNEL(attention_merge, 128,
       (float* out, const float* partials, const float* states, const int* query_starts,
        const int* kv_lens, int row_splits, int value_dim, int window, const float* sinks,
        int most_tokens)) {
  int head = blockIdx.x, heads = gridDim.x, row = blockIdx.y, seq = blockIdx.z;
  int token = query_starts[seq], tokens = query_starts[seq + 1] - token;
  int splits = splits_of(kv_lens[seq], tokens, window).count;
  if (tokens > most_tokens || row >= tokens || splits == 1) return;

  int first = decode_token(seq, most_tokens, query_starts);
  i64 at = ((i64)(first + row) * heads + head) * row_splits;
  const float* state = states + 2 * at;
  float largest = NEGATIVE_INFINITY;
  for (int i = 0; i < splits; i++) largest = fmaxf(largest, state[2 * i]);
  for (int d = threadIdx.x; d < value_dim; d += 128) {
    float acc = 0.0f, sum = sink_weight(sinks, head, largest);
    for (int i = 0; i < splits; i++) {
      float factor = exp2f(state[2 * i] - largest);
      sum = fmaf(factor, state[2 * i + 1], sum);
      acc = fmaf(factor, partials[(at + i) * value_dim + d], acc);
    }
    out[((i64)(token + row) * heads + head) * value_dim + d] = acc / sum;
  }
}
