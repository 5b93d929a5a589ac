// What the linears of every kind of weight share: their operands, and how results are stored.
#pragma once
#include "formats.cuh"
#include "activation.cuh"

// The operands of a product with one weight, or of a gated linear's with two.
//
// Work is counted in slots. A plain linear has one for each token; with experts a slot is a token's
// share of one of them, and `per_row` slots have the same row of the input.
struct Linear {
  Planes weights[2];   // the second: the up-projection of a gated linear
  const u8* input;     // [slots / per_row, columns], in the form that the weights ask for
  float* dst;          // [slots, n]
  const float* bias;   // [n], or null
  const i32* ids;      // the expert of each slot, or null
  const i32* sorted;   // [slots], in the order of their experts; for `gemm.cuh`, or null
  const i32* tiles;    // [tiles, 3]: expert, first place in `sorted`, and count; likewise
  i32 n, cols;         // rows of a matrix, and columns
  i32 groups;          // of 32 columns, the last one maybe not full
  i32 slots, per_row;
  i32 experts;
  i32 accumulate;
  i32 activation;      // of the gate
};

// Stores one result of a plain linear.
DEVICE void store(const Linear& p, i64 slot, int row, float result) {
  if (p.bias) result += p.bias[row];
  float* dst = p.dst + slot * p.n + row;
  *dst = p.accumulate ? *dst + result : result;
}

// Stores one result of a gated linear.
DEVICE void store_gated(const Linear& p, i64 slot, int row, float gate, float up) {
  p.dst[slot * p.n + row] = activation(gate, p.activation) * up;
}
