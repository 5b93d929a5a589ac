// What linears over the experts of a mixture need beside the products: the order of slots (a
// token's share of one expert) by expert, and sums over a token's slots.
#include "ptx.cuh"

// Slots of no expert that there is are left out of everything.
DEVICE bool is_expert(int id, int experts) { return id >= 0 && id < experts; }

// Inclusive sums over the 32 lanes.
DEVICE int warp_prefix_sum(int v) {
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int d = 1; d < 32; d <<= 1) {
    int below = __shfl_up_sync(0xffffffffu, v, d);
    if (lane >= d) v += below;
  }
  return v;
}

// Turns the numbers of slots in `next` into where each expert's begin, and writes its tiles of at
// most `width` slots; by one warp.
DEVICE void place_tiles(i32* next, i32* tiles, int experts, int width) {
  int first = 0, first_tile = 0, lane = threadIdx.x % 32;
  for (int e = lane; e - lane < experts; e += 32) {
    int count = e < experts ? next[e] : 0, own = (count + width - 1) / width;
    int slots = warp_prefix_sum(count), before = warp_prefix_sum(own);
    int start = first + slots - count, tile = first_tile + before - own;
    for (int i = 0; i < own; i++) {
      i32* t = tiles + 3 * (tile + i);
      t[0] = e, t[1] = start + i * width, t[2] = min(width, count - i * width);
    }
    if (e < experts) next[e] = start;
    first += __shfl_sync(0xffffffffu, slots, 31);
    first_tile += __shfl_sync(0xffffffffu, before, 31);
  }
}

// sorted[slots]: the slots in the order of their experts, ids[slots]; tiles[max_tiles, 3]: expert,
// first place in `sorted`, and number of slots; none in the last ones. One block.
//
// Which of an expert's slots comes first is left to chance: no result depends on it. Reads the ids
// twice, from the second-level cache, and writes as much: of 512 tokens with 8 experts each 16 KB.
KERNEL(sort_slots, 1024, (const i32* ids, i32* sorted, i32* tiles, int slots, int experts,
                          int width, int max_tiles)) {
  DYNAMIC_SHARED(i32, next);  // [experts]
  for (int e = threadIdx.x; e < experts; e += blockDim.x) next[e] = 0;
  for (int i = threadIdx.x; i < max_tiles; i += blockDim.x) tiles[3 * i + 2] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < slots; i += blockDim.x) {
    if (is_expert(ids[i], experts)) atomicAdd(next + ids[i], 1);
  }
  __syncthreads();
  if (threadIdx.x < 32) place_tiles(next, tiles, experts, width);
  __syncthreads();
  for (int i = threadIdx.x; i < slots; i += blockDim.x) {
    if (is_expert(ids[i], experts)) sorted[atomicAdd(next + ids[i], 1)] = i;
  }
}

// dst[t, :] (+)= sum over j of weights[t, j] * products[t * used + j, :], in the order of `j`; a
// thread for each value. Reads 4 * used and writes 4 bytes a value: of 512 tokens with 8 experts each
// and 4096 values 67 + 8.4 MB.
KERNEL(combine_slots, 256, (const float* products, const float* weights, const i32* ids,
                            float* dst, int tokens, int n, int used, int experts,
                            int accumulate)) {
  i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (i64)tokens * n) return;
  i64 first = at / n * used;
  float sum = 0.0f;
  for (i64 slot = first; slot < first + used; slot++) {
    if (is_expert(ids[slot], experts)) sum += weights[slot] * products[slot * n + at % n];
  }
  dst[at] = accumulate ? dst[at] + sum : sum;
}
