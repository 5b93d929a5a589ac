// Routing of tokens to experts: a warp a token, `used` passes over its scores.
#include "ptx.cuh"

// A score and its expert. Of two, the higher score comes first, and of equals the lower number.
struct Choice {
  float score;
  int expert;
};

DEVICE bool before(Choice a, Choice b) {
  return a.score > b.score || (a.score == b.score && a.expert < b.expert);
}

// The first of all lanes' choices.
DEVICE Choice warp_first(Choice mine) {
#pragma unroll
  for (int m = 16; m > 0; m >>= 1) {
    Choice other = {__shfl_xor_sync(0xffffffffu, mine.score, m),
                    __shfl_xor_sync(0xffffffffu, mine.expert, m)};
    if (before(other, mine)) mine = other;
  }
  return mine;
}

// What is no number counts as the least.
DEVICE float rank(float score) { return score == score ? score : -INFINITY; }

// ids, weights: [T, used]; scores: [T, experts]
KERNEL(route_topk, 32,
       (int* ids, float* weights, const float* scores, int experts, int used, int normalize,
        float scale)) {
  int lane = threadIdx.x;
  const float* score = scores + (u64)blockIdx.x * experts;
  int* id = ids + (u64)blockIdx.x * used;
  float* weight = weights + (u64)blockIdx.x * used;

  Choice last = {INFINITY, -1};
  float highest = 0.0f, chosen = 0.0f;
  for (int j = 0; j < used; j++) {
    Choice best = {-INFINITY, experts};
    for (int e = lane; e < experts; e += 32) {
      Choice mine = {rank(score[e]), e};
      if (before(last, mine) && before(mine, best)) best = mine;
    }
    last = warp_first(best);
    float raw = score[last.expert];
    if (j == 0) highest = raw;
    chosen += expf(raw - highest);
    if (lane == 0) id[j] = last.expert;
  }

  float total = chosen;
  if (!normalize) {
    float sum = 0.0f;
    for (int e = lane; e < experts; e += 32) sum += expf(score[e] - highest);
    total = warp_sum(sum);
  }
  __syncwarp();
  for (int j = lane; j < used; j += 32) weight[j] = scale * expf(score[id[j]] - highest) / total;
}
