// Products with few tokens, where reading the weight takes the time: each warp makes two results of
// each token from two rows of the weight, or from one row of either of a gated linear's weights.
//
// A lane takes a group of columns and those 32 groups on. The order in which products are summed
// depends on the width alone, so that a token's results do not depend on the tokens beside it.
#pragma once
#include "linear.cuh"

constexpr int GEMV_WARPS = 4;
// Rows that a warp works on.
constexpr int GEMV_ROWS = 2;

// The rows of a warp.
struct GemvRows {
  Planes planes[GEMV_ROWS];
  i64 row[GEMV_ROWS];      // in the stack
  int first;               // of the matrix
};

template <bool GATED>
DEVICE GemvRows gemv_rows(const Linear& p, Place place, int matrix) {
  GemvRows rows;
  Output o = output_of(p, place.output);
  int warp = place.block * GEMV_WARPS + threadIdx.x / 32;
  rows.first = GATED ? warp : GEMV_ROWS * warp;
#pragma unroll
  for (int r = 0; r < GEMV_ROWS; r++) {
    rows.planes[r] = GATED ? p.outputs[r].planes : o.planes;
    int row = GATED ? rows.first : rows.first + r;
    rows.row[r] = (i64)matrix * o.n + (row < o.n ? row : o.n - 1);
  }
  return rows;
}

// Multiplies with `TOKENS` slots, or those that there still are, from `blockIdx.x * TOKENS` on. A
// `Step` says how a lane takes part in the product of some rows and some slots.
template <class Step, int TOKENS, bool GATED>
DEVICE void gemv(const Linear& p) {
  int first = blockIdx.x * TOKENS;
  int matrix = p.ids ? p.ids[first] : 0;
  // The results of a slot that has no such expert are left as they are.
  if (matrix < 0 || matrix >= p.experts) return;
  Place place = block_place<GEMV_ROWS * GEMV_WARPS, !GATED>(p);
  GemvRows rows = gemv_rows<GATED>(p, place, matrix);
  if (rows.first >= output_of(p, place.output).n) return;
  int inputs[TOKENS];
#pragma unroll
  for (int t = 0; t < TOKENS; t++) {
    int slot = first + t < p.slots ? first + t : p.slots - 1;
    inputs[t] = slot / p.per_row;
  }
  float sums[GEMV_ROWS][TOKENS] = {};
  Step::template multiply<TOKENS>(p, rows, inputs, sums);

  Output o = output_of(p, place.output);
#pragma unroll
  for (int t = 0; t < TOKENS; t++) {
    float a = warp_sum(sums[0][t]), b = warp_sum(sums[1][t]);
    if (threadIdx.x % 32 != 0 || first + t >= p.slots) continue;
    if (GATED) {
      store_gated(p, first + t, rows.first, a, b);
    } else {
      store(o, first + t, rows.first, a);
      if (rows.first + 1 < o.n) store(o, first + t, rows.first + 1, b);
    }
  }
}
