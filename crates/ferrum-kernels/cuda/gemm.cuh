// Products with many tokens by tensor cores: each block makes the results of a tile of slots and of
// 128 rows of the weight (or of 64 rows of either of a gated linear's weights).
//
// The weight is the left operand: a warp has 32 rows of its own, whose codes come from global memory
// straight into the fragments' registers, one group of columns ahead, and are unpacked once for all
// slots of the tile. The activations are the right operand, in records of whole groups of columns
// that go through shared memory, some records ahead.
//
// Every result is the sum over groups of columns in their order, so that a token's results do not
// depend on the tokens beside it, nor on the tile. They may differ from those of `gemv.cuh` by
// rounding, as there the sum is taken in another order.
#pragma once
#include "linear.cuh"

constexpr int GEMM_WARPS = 4;
constexpr int GEMM_THREADS = 32 * GEMM_WARPS;
// Records on their way to shared memory, or in use.
constexpr int GEMM_STAGES = 3;

// The slots of a block: of one matrix, `count` from `first` on (with experts, in their order).
struct GemmTile {
  int matrix, first, count;
};

DEVICE GemmTile gemm_tile(const Linear& p, int slots) {
  if (p.tiles) {
    const i32* tile = p.tiles + 3 * blockIdx.x;
    return {tile[0], tile[1], tile[2]};
  }
  int first = blockIdx.x * slots;
  return {0, first, min(slots, p.slots - first)};
}

// The rows of a lane: `g` and `g + 8` (g = lane / 4) of two fragments of 16.
struct GemmRows {
  Planes planes[2];
  int row[2][2];   // in the stack
  int first[2];    // of the matrix, of each fragment
};

template <bool GATED>
DEVICE GemmRows gemm_rows(const Linear& p, int matrix) {
  GemmRows rows;
  int warp = blockIdx.y * GEMM_WARPS + threadIdx.x / 32, g = threadIdx.x % 32 / 4;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    rows.planes[i] = p.weights[GATED ? i : 0];
    rows.first[i] = GATED ? 16 * warp : 32 * warp + 16 * i;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      // Rows past the last are computed as the last, and not stored.
      rows.row[i][h] = matrix * p.n + min(rows.first[i] + g + 8 * h, p.n - 1);
    }
  }
  return rows;
}

// Begins to copy record `index` of each slot.
template <class Step>
DEVICE void gemm_fetch(const Linear& p, uint4* stage, const int* inputs, int records, int index) {
  constexpr int CHUNKS = Step::RECORD / 16;
  for (int i = threadIdx.x; i < Step::SLOTS * CHUNKS; i += GEMM_THREADS) {
    i64 record = (i64)inputs[i / CHUNKS] * records + index;
    cp_async16(stage + i, p.input + record * Step::RECORD + i % CHUNKS * 16);
  }
}

// Stores what a lane has: of fragment `i` and slots 8·n + 2·(lane % 4) + {0, 1} the rows `g` (first
// two) and `g + 8`.
template <class Step, bool GATED>
DEVICE void gemm_store(const Linear& p, const GemmRows& rows, int count, const int* slots,
                       const float (*sums)[Step::TILES][4]) {
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < Step::TILES; n++) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
      int place = 8 * n + 2 * (lane % 4) + e % 2, row = lane / 4 + 8 * (e / 2);
      if (place >= count) continue;
      i64 slot = slots[place];
      if (GATED) {
        if (rows.first[0] + row >= p.n) continue;
        store_gated(p, slot, rows.first[0] + row, sums[0][n][e], sums[1][n][e]);
      } else {
        if (rows.first[0] + row < p.n) store(p, slot, rows.first[0] + row, sums[0][n][e]);
        if (rows.first[1] + row < p.n) store(p, slot, rows.first[1] + row, sums[1][n][e]);
      }
    }
  }
}

// The whole product. A `Step` says what a record is, what a lane keeps of a group of the weight, and
// how a group is multiplied. `shared` has room for the stages and two numbers of each slot.
template <class Step, bool GATED>
DEVICE void gemm(const Linear& p, uint4* shared) {
  constexpr int STAGE = Step::SLOTS * (Step::RECORD / 16);
  int* slots = reinterpret_cast<int*>(shared + GEMM_STAGES * STAGE);
  int* inputs = slots + Step::SLOTS;
  GemmTile tile = gemm_tile(p, Step::SLOTS);
  if (tile.count <= 0) return;
  if (threadIdx.x < Step::SLOTS) {
    // Places past the last are computed as the last, and not stored.
    int place = tile.first + min((int)threadIdx.x, tile.count - 1);
    int slot = p.tiles ? p.sorted[place] : place;
    slots[threadIdx.x] = slot;
    inputs[threadIdx.x] = slot / p.per_row;
  }
  __syncthreads();

  GemmRows rows = gemm_rows<GATED>(p, tile.matrix);
  int records = (p.groups + Step::GROUPS - 1) / Step::GROUPS;
#pragma unroll
  for (int r = 0; r < GEMM_STAGES - 1; r++) {
    if (r < records) gemm_fetch<Step>(p, shared + r * STAGE, inputs, records, r);
    cp_async_commit();
  }
  typename Step::Weights ahead;
  Step::load(p, rows, 0, ahead);
  float sums[2][Step::TILES][4] = {};
  for (int r = 0; r < records; r++) {
    // This record is there, and nobody reads the one before it any more.
    cp_async_wait<GEMM_STAGES - 2>();
    __syncthreads();
    int next = r + GEMM_STAGES - 1;
    uint4* free = shared + next % GEMM_STAGES * STAGE;
    if (next < records) gemm_fetch<Step>(p, free, inputs, records, next);
    cp_async_commit();
    const u8* stage = reinterpret_cast<const u8*>(shared + r % GEMM_STAGES * STAGE);
#pragma unroll
    for (int within = 0; within < Step::GROUPS; within++) {
      int group = r * Step::GROUPS + within;
      if (group >= p.groups) break;
      typename Step::Weights weights = ahead;
      if (group + 1 < p.groups) Step::load(p, rows, group + 1, ahead);
      Step::multiply(p, rows, weights, group, stage, sums);
    }
  }
  gemm_store<Step, GATED>(p, rows, tile.count, slots, sums);
}
