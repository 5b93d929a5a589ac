// What the linears of every kind of weight share: their operands, and how results are stored.
#pragma once
#include "formats.cuh"

// The operands of a product with one weight, or of a gated linear's with two.
//
// Work is counted in slots. A plain linear has one for each token; with experts a slot is a token's
// share of one of them, and `per_row` slots have the same row of the input.
struct Linear {
  Planes weights[2];       // the second: the up-projection of a gated linear
  const u8* input;         // [slots / per_row, groups] in the form that the weights ask for
  float* dst;              // [slots, n]
  const float* bias;       // [n], or null
  const i32* ids;          // the expert of each slot, or null
  const i32* sorted;       // with experts in a GEMM: slots in the order of their experts
  const i32* tiles;        // with experts in a GEMM: [tiles, 3]: expert, first place in `sorted`, count
  i32 n;                   // rows of a matrix
  i32 cols;                // columns of `input`
  i32 groups;              // groups of 32 columns of the weight
  i32 slots;
  i32 per_row;
  i32 accumulate;
  i32 activation;          // of the gate
};

// The activations, by their number in `params::Activation`.
DEVICE float activate(int activation, float x) {
  switch (activation) {
    case 0:
      return x / (1.0f + expf(-x));
    case 1:
      return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
    case 2:
      return 0.5f * x * (1.0f + erff(0.7071067812f * x));
    default:
      return x != x ? x : fmaxf(x, 0.0f);
  }
}

// Stores one result of a plain linear.
DEVICE void store(const Linear& p, i64 slot, int row, float result) {
  if (p.bias) result += p.bias[row];
  float* dst = p.dst + slot * p.n + row;
  *dst = p.accumulate ? *dst + result : result;
}

// Stores one result of a gated linear.
DEVICE void store_gated(const Linear& p, i64 slot, int row, float gate, float up) {
  p.dst[slot * p.n + row] = activate(p.activation, gate) * up;
}
