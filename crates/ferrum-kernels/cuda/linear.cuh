// What the linears of every kind of weight share: their operands, and how results are stored.
#pragma once
#include "formats.cuh"
#include "activation.cuh"

// Outputs that a launch makes at most: a layer's queries, keys and values.
constexpr int MOST_OUTPUTS = 3;

// One product, or the half of a gated linear's.
struct Output {
  Planes planes;
  float* dst;          // [slots, n]
  const float* bias;   // [n], or null
  i32 n;               // rows of a matrix
  i32 accumulate;
};

// The operands of products that share an input and the format of their weights.
//
// Work is counted in slots. A plain linear has one for each token; with experts a slot is a token's
// share of one of them, and `per_row` slots have the same row of the input.
struct Linear {
  Output outputs[MOST_OUTPUTS];  // of a gated linear the gate's, whose `dst` is the result's, and the other's
  const u8* input;     // [slots / per_row, columns], in the form that the weights ask for
  const i32* ids;      // the expert of each slot, or null
  const i32* sorted;   // [slots], in the order of their experts; for `gemm.cuh`, or null
  const i32* tiles;    // [tiles, 3]: expert, first place in `sorted`, and count; likewise
  i32 count;           // of outputs
  i32 cols;
  i32 groups;          // of 32 columns, the last one maybe not full
  i32 slots, per_row;
  i32 experts;
  i32 activation;      // of the gate
};

// What a block works on: an output, and the number of the block among those of the output.
struct Place {
  int output, block;
};

// `blockIdx.y` goes through `ROWS` rows of a matrix at a time, one output after the other if there may
// be `SEVERAL`.
template <int ROWS, bool SEVERAL>
DEVICE Place block_place(const Linear& p) {
  Place place = {0, (int)blockIdx.y};
#pragma unroll
  for (int i = 1; i < (SEVERAL ? MOST_OUTPUTS : 1); i++) {
    int before = (p.outputs[i - 1].n + ROWS - 1) / ROWS;
    if (i < p.count && place.output == i - 1 && place.block >= before) {
      place.output = i;
      place.block -= before;
    }
  }
  return place;
}

// An output by its number. Parameters cannot be indexed by what is not known before; asked for when it is
// used, it takes no registers in between.
DEVICE Output output_of(const Linear& p, int number) {
  return number == 0 ? p.outputs[0] : number == 1 ? p.outputs[1] : p.outputs[2];
}

// Stores one result of a plain linear.
DEVICE void store(const Output& o, i64 slot, int row, float result) {
  if (o.bias) result += o.bias[row];
  float* dst = o.dst + slot * o.n + row;
  *dst = o.accumulate ? *dst + result : result;
}

// Stores one result of a gated linear.
DEVICE void store_gated(const Linear& p, i64 slot, int row, float gate, float up) {
  const Output& o = p.outputs[0];
  o.dst[slot * o.n + row] = activation(gate, p.activation) * up;
}
