// Drawing a token from each row of logits: a block a row.
//
// Which tokens are left after a filter is one number, the rank of the last of them, which is found by
// histograms: first over the distance from the highest logit, then over ranks within one bin, ever
// finer, until one token is in it. Weights are whole numbers of 2^-40, whose sums are the same in any
// order, so that a draw does not depend on how the card runs. A row is read once where the most likely
// token is wanted, and about ten times (from the second-level cache) with all filters.
#include "logits.cuh"

constexpr int BINS = 256;
// Bins of the first histogram for each unit of a logit: they end where weights are no longer counted.
constexpr float BINS_PER_UNIT = 8.0f;

struct Scratch {
  u64 partials[WARPS];
  u64 mass[BINS];
  u32 count[BINS];
  // The lowest rank in each bin.
  u64 lowest[BINS];
  // What `pick` found: the bin, the mass of those before it, and what is in it.
  int bin;
  u64 before, mass_within, lowest_within;
  u32 count_within;
  // The warp whose tokens the drawn one is among, and its place in their mass.
  int warp;
  u64 place;
  Adjusted adjusted;
};

// `f(token, logit)` for every `STEP`th token from `begin` on. Four values are read at once, as the branches
// of what is made of them keep the compiler from that.
template <int STEP, class F>
DEVICE void each_logit(const Row& row, int begin, int end, F f) {
  constexpr int AT_ONCE = 4;
  for (int first = begin; first < end; first += AT_ONCE * STEP) {
    float values[AT_ONCE];
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) {
      int token = first + i * STEP;
      values[i] = token < end ? row.values[token] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) {
      int token = first + i * STEP;
      if (token < end) f(token, logit(row, token, values[i]));
    }
  }
}

// The bin of a distance from the highest logit; the last has all that lie further.
DEVICE int bin_of(float distance) {
  float bin = distance * BINS_PER_UNIT;
  return bin < (float)(BINS - 1) ? (int)bin : BINS - 1;
}

// The sum of the histogram, the same in each thread.
DEVICE u64 total_mass(Scratch& s) {
  if (threadIdx.x < 32) {
    u64 sum = 0;
    for (int i = threadIdx.x; i < BINS; i += 32) sum += s.mass[i];
    sum = sum_so_far(sum);
    if (threadIdx.x == 31) s.place = sum;
  }
  __syncthreads();
  return s.place;
}

// The bin with which the mass reaches `need`, which all of them do.
DEVICE void pick(Scratch& s, u64 need) {
  constexpr int EACH = BINS / 32;
  if (threadIdx.x < 32) {
    u64 own = 0;
    for (int i = 0; i < EACH; i++) own += s.mass[threadIdx.x * EACH + i];
    u64 until = sum_so_far(own), before = until - own;
    if (before < need && need <= until) {
      int bin = threadIdx.x * EACH;
      while (before + s.mass[bin] < need) before += s.mass[bin++];
      s.bin = bin;
      s.before = before;
      s.mass_within = s.mass[bin];
      s.count_within = s.count[bin];
      s.lowest_within = s.lowest[bin];
    }
  }
  __syncthreads();
}

DEVICE void clear(Scratch& s) {
  if (threadIdx.x < BINS) {
    s.mass[threadIdx.x] = s.count[threadIdx.x] = 0;
    s.lowest[threadIdx.x] = ~(u64)0;
  }
  __syncthreads();
}

// The lowest rank that is left of those from `from` on: that of the `wanted` likeliest tokens, or, by
// mass, of the likeliest with that share of the mass.
template <bool BY_MASS>
DEVICE u64 border(const Row& row, float highest, u64 from, double wanted, Scratch& s) {
  clear(s);
  u64 far = 0;
  each_logit<THREADS>(row, threadIdx.x, row.vocab, [&](int token, float x) {
    if (!(x > -INFINITY) || rank(x, token) < from) return;
    u64 mass = BY_MASS ? weight(x - highest) : 1;
    int bin = bin_of(highest - x);
    // Most tokens may be there, and must not wait for one another.
    if (bin == BINS - 1) far += mass;
    else atomicAdd(&s.mass[bin], mass);
  });
  if (far > 0) atomicAdd(&s.mass[BINS - 1], far);
  __syncthreads();

  u64 total = total_mass(s);
  u64 need = BY_MASS ? (u64)ceil(wanted * (double)total) : (u64)wanted;
  if (need >= total && !BY_MASS) return from;
  need = need < 1 ? 1 : need > total ? total : need;
  pick(s, need);
  need -= s.before;
  int first = s.bin;
  // What the bin's ranks lie between, whatever was rounded.
  float slack = 1e-6f * (fabsf(highest) + BINS / BINS_PER_UNIT);
  float upper = first == 0 ? highest : highest - first / BINS_PER_UNIT + slack;
  float lower = first == BINS - 1 ? -INFINITY : highest - (first + 1) / BINS_PER_UNIT - slack;
  u64 high = (u64)order(upper + 0.0f) << 32 | ALL, low = (u64)order(lower + 0.0f) << 32;
  for (;;) {
    int bits = 64 - __clzll((i64)(high - low));
    int shift = bits > 8 ? bits - 8 : 0;
    clear(s);
    each_logit<THREADS>(row, threadIdx.x, row.vocab, [&](int token, float x) {
      u64 place = rank(x, token);
      bool within = x > -INFINITY && place >= from && place >= low && place <= high;
      if (!within || bin_of(highest - x) != first) return;
      int bin = (int)((high - place) >> shift);
      atomicAdd(&s.mass[bin], BY_MASS ? weight(x - highest) : (u64)1);
      atomicAdd(&s.count[bin], 1u);
      atomicMin(&s.lowest[bin], place);
    });
    __syncthreads();
    pick(s, need);
    need -= s.before;
    bool whole = !BY_MASS && s.mass_within == need;
    if (shift == 0 || s.count_within == 1 || whole) return s.lowest_within;
    u64 width = ((u64)1 << shift) - 1;
    high -= (u64)s.bin << shift;
    low = high - low < width ? low : high - width;
  }
}

// The token at the share `uniform` of the mass at a temperature of those from rank `from` on, in the
// order of their numbers.
DEVICE void draw(int* dst, const Row& row, float highest, u64 from, float temperature,
                 double uniform, Scratch& s) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // A warp has consecutive tokens.
  int each = (row.vocab + WARPS - 1) / WARPS;
  int begin = warp * each, end = min(row.vocab, begin + each);
  auto mass = [&](int token, float x) -> u64 {
    bool left = x > -INFINITY && rank(x, token) >= from;
    return left ? weight((x - highest) / temperature) : 0;
  };
  u64 sum = 0;
  each_logit<32>(row, begin + lane, end, [&](int token, float x) { sum += mass(token, x); });
  sum = sum_so_far(sum);
  if (lane == 31) s.partials[warp] = sum;
  if (threadIdx.x == 0) s.warp = -1;
  __syncthreads();
  if (warp == 0) {
    u64 own = s.partials[lane], until = sum_so_far(own);
    u64 total = __shfl_sync(ALL, until, 31);
    u64 place = (u64)((double)total * uniform);
    place = place < total ? place : total - 1;
    if (until - own <= place && place < until) {
      s.warp = lane;
      s.place = place - (until - own);
    }
  }
  __syncthreads();
  if (warp != s.warp) return;
  u64 place = s.place;
  for (int base = begin; base < end; base += 32) {
    int token = base + lane;
    u64 own = token < end ? mass(token, logit(row, token)) : 0;
    u64 until = sum_so_far(own), all = __shfl_sync(ALL, until, 31);
    if (place < all) {
      u32 behind = __ballot_sync(ALL, place < until);
      if (lane == __ffs(behind) - 1) *dst = token;
      return;
    }
    place -= all;
  }
}

// Notes which logits are adjusted.
DEVICE void note(Adjusted& adjusted, const int* tokens, const float* values, int count) {
  for (int i = threadIdx.x; i < ADJUST_WORDS; i += THREADS) adjusted.bits[i] = 0;
  if (threadIdx.x == 0) {
    adjusted.tokens = tokens;
    adjusted.values = values;
    adjusted.count = count;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += THREADS) {
    int token = tokens[i];
    atomicOr(&adjusted.bits[token / 32 % ADJUST_WORDS], 1u << (token % 32));
  }
  __syncthreads();
}

// dst: [R]; logits: [R, vocab]; ints: [R, DRAW_INTS]; floats: [R, DRAW_FLOATS]; masks: [M, ceil(vocab
// / 32)]; adjust_tokens: [A]; adjust_values: [A, ADJUST_FLOATS]. A cap of 0 is none.
KERNEL(sample, 1024,
       (int* dst, const float* logits, const int* ints, const float* floats, const u32* masks,
        const int* adjust_tokens, const float* adjust_values, int vocab, float scale, float cap)) {
  __shared__ Scratch s;
  const int* whole = ints + DRAW_INTS * blockIdx.x;
  const float* real = floats + DRAW_FLOATS * blockIdx.x;
  int top_k = whole[0], masked = whole[1];
  float temperature = real[0], top_p = real[1], min_p = real[2];
  const u32* mask = masked < 0 ? nullptr : masks + (u64)masked * ((vocab + 31) / 32);
  dst += blockIdx.x;
  int known = whole[4];
  if (known >= 0) {
    if (threadIdx.x == 0) *dst = known;
    return;
  }
  int first = whole[6], adjusted = whole[7] - first;
  const float* adjust_by = adjust_values + (u64)ADJUST_FLOATS * first;
  if (adjusted > 0) note(s.adjusted, adjust_tokens + first, adjust_by, adjusted);
  Row row = {logits + (u64)blockIdx.x * vocab, mask, adjusted > 0 ? &s.adjusted : nullptr,
             scale, cap, vocab};

  // What is no number is found by the lowest token: by the highest complement.
  u64 best = 0, wrong = 0;
  each_logit<THREADS>(row, threadIdx.x, vocab, [&](int token, float x) {
    u64 place = rank(x, token);
    if (!(x < INFINITY)) wrong = wrong > (u32)~token ? wrong : (u32)~token;
    else if (x > -INFINITY && place > best) best = place;
  });
  wrong = block_max(wrong, s.partials);
  best = block_max(best, s.partials);
  int token = (int)~(u32)best;
  if (threadIdx.x == 0) *dst = wrong > 0 ? -2 - (int)~(u32)wrong : best == 0 ? -1 : token;
  if (wrong > 0 || best == 0 || temperature == 0.0f || top_k == 1) return;

  float highest = logit(row, token);
  u64 from = 0;
  if (top_k > 0) from = border<false>(row, highest, from, top_k, s);
  if (top_p < 1.0f) from = border<true>(row, highest, from, top_p, s);
  if (min_p > 0.0f) {
    u64 least = (u64)order(highest + logf(min_p) + 0.0f) << 32;
    from = least > from ? least : from;
  }
  double uniform = (double)((u64)(u32)whole[2] << 32 | (u32)whole[3]) * (1.0 / 9007199254740992.0);
  draw(dst, row, highest, from, temperature, uniform, s);
}
