// Log-probabilities of each row's likeliest tokens, and of the one that came: a block a row, where they
// are wanted. A row is read twice; then each of the likeliest costs a search among the tokens of one
// thread, by its warp.
#include "logits.cuh"

// Entries of a row: the token that came, and the likeliest.
constexpr int ENTRIES = 1 + 20;

// The sum of all threads' numbers, the same in each.
DEVICE u64 block_sum(u64 v, u64* partials) {
  v = sum_so_far(v);
  if (threadIdx.x % 32 == 31) partials[threadIdx.x / 32] = v;
  __syncthreads();
  v = __shfl_sync(ALL, sum_so_far(partials[threadIdx.x % 32]), 31);
  __syncthreads();
  return v;
}

// The highest rank below `bound` among the tokens of a thread of this warp, the same in each lane.
DEVICE u64 next_of(const Row& row, int thread, u64 bound) {
  u64 next = 0;
  for (int token = thread + threadIdx.x % 32 * THREADS; token < row.vocab; token += 32 * THREADS) {
    u64 place = rank(logit(row, token), token);
    if (place < bound && place > next) next = place;
  }
  for (int m = 16; m > 0; m >>= 1) {
    u64 other = __shfl_xor_sync(ALL, next, m);
    next = other > next ? other : next;
  }
  return next;
}

// tokens, values: [R, ENTRIES]; logits: [R, vocab]; came: [R]; ints: [R, DRAW_INTS]. A cap of 0 is none.
KERNEL_RESIDENT(logprobs, 1024, 1,
       (int* tokens, float* values, const float* logits, const int* came, const int* ints, int vocab,
        float scale, float cap)) {
  __shared__ u64 partials[WARPS];
  int likeliest = ints[DRAW_INTS * blockIdx.x + 5];
  if (likeliest < 0) return;
  Row row = {logits + (u64)blockIdx.x * vocab, nullptr, nullptr, scale, cap, vocab};
  tokens += blockIdx.x * ENTRIES;
  values += blockIdx.x * ENTRIES;
  int thread = threadIdx.x, warp = thread / 32, given = came[blockIdx.x];
  if (given < 0) {
    if (thread == 0) tokens[0] = given;
    return;
  }

  // The highest rank of this thread's tokens; what is no number is found by the lowest token.
  u64 own = 0, wrong = 0;
  for (int token = thread; token < vocab; token += THREADS) {
    float x = logit(row, token);
    u64 place = rank(x, token);
    if (!(x < INFINITY)) wrong = wrong > (u32)~token ? wrong : (u32)~token;
    else if (place > own) own = place;
  }
  wrong = block_max(wrong, partials);
  u64 best = block_max(own, partials);
  float highest = wrong > 0 ? 0.0f : logit(row, (int)~(u32)best);
  if (wrong > 0 || highest == -INFINITY) {
    if (thread == 0) tokens[0] = wrong > 0 ? -2 - (int)~(u32)wrong : -1;
    return;
  }

  u64 sum = 0;
  for (int token = thread; token < vocab; token += THREADS) sum += weight(logit(row, token) - highest);
  sum = block_sum(sum, partials);
  double of_all = thread == 0 ? log((double)sum * (1.0 / WEIGHT_UNITS)) : 0.0;
  auto report = [&](int entry, int token) {
    bool is_one = token < vocab;
    tokens[entry] = token;
    values[entry] = is_one ? (float)((double)(logit(row, token) - highest) - of_all) : -INFINITY;
  };
  if (thread == 0) report(0, given);
  for (int i = 0; i < min(likeliest, vocab); i++) {
    best = block_max(own, partials);
    int token = (int)~(u32)best, owner = token % THREADS;
    if (thread == 0) report(1 + i, token);
    if (warp == owner / 32) {
      u64 next = next_of(row, owner, best);
      if (thread == owner) own = next;
    }
  }
}
