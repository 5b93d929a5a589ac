// Products with many tokens by tensor cores: each block makes the results of a tile of slots and of
// up to 128 rows of the weight (or of half as many of either of a gated linear's weights).
//
// The weight is the left operand: a warp has 32 of the rows, whose codes come from global memory
// straight into the fragments' registers, one group of columns ahead, and are unpacked once for all
// slots of the tile. The activations are the right operand, in records of whole groups of columns
// that go through shared memory, some records ahead.
//
// With few slots there are not enough blocks to keep a card busy, nor enough to do for a warp while
// it waits for the weight. There the warps of a block share out the columns instead of the rows:
// each sums up a part of them, in the order of the columns, and the parts are added in their order.
//
// So a token's results do not depend on the tokens beside it, nor on the tile. They may differ by
// rounding from those of another split, and from those of `gemv.cuh`.
#pragma once
#include "linear.cuh"

constexpr int GEMM_WARPS = 4;
constexpr int GEMM_THREADS = 32 * GEMM_WARPS;
// Rows of a warp: two fragments.
constexpr int GEMM_ROWS = 32;
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

template <int SPLIT, bool GATED>
DEVICE GemmRows gemm_rows(const Linear& p, Place place, int matrix) {
  constexpr int WARPS = GEMM_WARPS / SPLIT;
  GemmRows rows;
  Output o = output_of(p, place.output);
  int warp = place.block * WARPS + threadIdx.x / 32 % WARPS, g = threadIdx.x % 32 / 4;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    rows.planes[i] = GATED ? p.outputs[i].planes : o.planes;
    rows.first[i] = GATED ? GEMM_ROWS / 2 * warp : GEMM_ROWS * warp + GEMM_ROWS / 2 * i;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      // Rows past the last are computed as the last, and not stored.
      rows.row[i][h] = matrix * o.n + min(rows.first[i] + g + 8 * h, o.n - 1);
    }
  }
  return rows;
}

// The records of an input row, of which each part has `share` (the last ones maybe fewer).
struct GemmRecords {
  int count, share;
};

// Begins to copy record `index` of each part and slot.
template <class Step>
DEVICE void gemm_fetch(const Linear& p, uint4* stage, const int* inputs, GemmRecords records,
                       int index) {
  constexpr int CHUNKS = Step::RECORD / 16, PART = Step::SLOTS * CHUNKS;
  for (int i = threadIdx.x; i < Step::SPLIT * PART; i += GEMM_THREADS) {
    int own = i / PART * records.share + index;
    if (own >= records.count) break;
    i64 record = (i64)inputs[i % PART / CHUNKS] * records.count + own;
    cp_async16(stage + i, p.input + record * Step::RECORD + i % CHUNKS * 16);
  }
}

// Adds the sums of the other parts to those of the first, which are the only ones to be right
// afterwards. `shared` is free.
template <class Step>
DEVICE void gemm_add_parts(float* sums, float* shared) {
  constexpr int SUMS = 2 * Step::TILES * 4, WARPS = GEMM_WARPS / Step::SPLIT;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // [warps, SUMS, lanes]
  if (warp >= WARPS) {
#pragma unroll
    for (int i = 0; i < SUMS; i++) shared[(warp * SUMS + i) * 32 + lane] = sums[i];
  }
  __syncthreads();
  if (warp >= WARPS) return;
  for (int other = warp + WARPS; other < GEMM_WARPS; other += WARPS) {
#pragma unroll
    for (int i = 0; i < SUMS; i++) sums[i] += shared[(other * SUMS + i) * 32 + lane];
  }
}

// Stores what a lane has: of either fragment and slots 8·n + 2·(lane % 4) + {0, 1} the rows `g`
// (first two) and `g + 8`.
template <class Step, bool GATED>
DEVICE void gemm_store(const Linear& p, const Output& o, const GemmRows& rows, int count,
                       const int* slots, const float (*sums)[Step::TILES][4]) {
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < Step::TILES; n++) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
      int place = 8 * n + 2 * (lane % 4) + e % 2, row = lane / 4 + 8 * (e / 2);
      if (place >= count) continue;
      i64 slot = slots[place];
      if (GATED) {
        if (rows.first[0] + row >= o.n) continue;
        store_gated(p, slot, rows.first[0] + row, sums[0][n][e], sums[1][n][e]);
      } else {
        if (rows.first[0] + row < o.n) store(o, slot, rows.first[0] + row, sums[0][n][e]);
        if (rows.first[1] + row < o.n) store(o, slot, rows.first[1] + row, sums[1][n][e]);
      }
    }
  }
}

// The whole product. A `Step` says what a record is, what a lane keeps of a group of the weight,
// how a group is multiplied, and what is left to do with the sums. `shared` has room for the stages
// and two numbers of each slot.
template <class Step, bool GATED>
DEVICE void gemm(const Linear& p, uint4* shared) {
  constexpr int PART = Step::SLOTS * Step::RECORD, STAGE = Step::SPLIT * PART / 16;
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

  // With many slots an output has blocks enough, and a block no registers to spare.
  constexpr bool SEVERAL = !GATED && Step::SPLIT > 1;
  Place place = block_place<GEMM_ROWS * GEMM_WARPS / Step::SPLIT, SEVERAL>(p);
  GemmRows rows = gemm_rows<Step::SPLIT, GATED>(p, place, tile.matrix);
  GemmRecords records;
  records.count = (p.groups + Step::GROUPS - 1) / Step::GROUPS;
  records.share = (records.count + Step::SPLIT - 1) / Step::SPLIT;
#pragma unroll
  for (int r = 0; r < GEMM_STAGES - 1; r++) {
    if (r < records.share) gemm_fetch<Step>(p, shared + r * STAGE, inputs, records, r);
    cp_async_commit();
  }
  int part = threadIdx.x / 32 / (GEMM_WARPS / Step::SPLIT), first = part * records.share;
  int last_group = min(p.groups, (first + records.share) * Step::GROUPS);
  typename Step::Weights ahead;
  if (first * Step::GROUPS < last_group) Step::load(p, rows, first * Step::GROUPS, ahead);
  float sums[2][Step::TILES][4] = {};
  for (int r = 0; r < records.share; r++) {
    // This record is there, and nobody reads the one before it any more.
    cp_async_wait<GEMM_STAGES - 2>();
    __syncthreads();
    int next = r + GEMM_STAGES - 1;
    uint4* free = shared + next % GEMM_STAGES * STAGE;
    if (next < records.share) gemm_fetch<Step>(p, free, inputs, records, next);
    cp_async_commit();
    const u8* stage = reinterpret_cast<const u8*>(shared + r % GEMM_STAGES * STAGE) + part * PART;
    // Unrolled, it would need more registers than there are.
#pragma unroll 1
    for (int within = 0; within < Step::GROUPS; within++) {
      int group = (first + r) * Step::GROUPS + within;
      if (group >= last_group) break;
      typename Step::Weights weights = ahead;
      if (group + 1 < last_group) Step::load(p, rows, group + 1, ahead);
      Step::multiply(p, rows, weights, group, stage, sums);
    }
  }
  if (Step::SPLIT > 1) {
    __syncthreads();
    gemm_add_parts<Step>(&sums[0][0][0], reinterpret_cast<float*>(shared));
    if (part > 0) return;
  }
  Step::finish(rows, sums);
  gemm_store<Step, GATED>(p, output_of(p, place.output), rows, tile.count, slots, sums);
}
