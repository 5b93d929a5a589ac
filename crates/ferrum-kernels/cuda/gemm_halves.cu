// Products of an F16, BF16 or E4M3 weight with many tokens, by tensor cores. Compiled for each, with
// `FORMAT` defined as the name. E4M3 numbers become F16 ones, and meet what those meet.
//
// Of 4096 x 4096 in F16 and 512 tokens: 17.2 billion operations, twice that on the tensor cores for
// the two terms of an activation; 33.6 MB of weight for each tile of 64 tokens, all but the first
// from the second-level cache.
#include "gemm.cuh"
#include "halves.cuh"

#ifndef FORMAT
#define FORMAT F16
#endif

template <class F, int TILES_, int SPLIT_>
struct HalvesStep {
  using Of = HalvesOf<F>;
  using Records = HalvesRecord<Of::TERMS>;
  static constexpr int TILES = TILES_, SLOTS = 8 * TILES, SPLIT = SPLIT_;
  static constexpr int RECORD = sizeof(Records), GROUPS = 1;

  // A lane's part of a group: of the rows `g` and `g + 8` of two fragments, the columns from 8·t
  // on (t = lane % 4), as `fragment_place` has them.
  static constexpr int WORDS = 2 * F::BYTES;
  struct Weights {
    u32 words[2][2][WORDS];
  };

  static DEVICE void load(const Linear& p, const GemmRows& rows, int group, Weights& w) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      i64 at = (i64)rows.row[i / 2][i % 2] * p.groups + group;
      load_words<WORDS>(w.words[i / 2][i % 2], rows.planes[i / 2].low + at * (F::BYTES * GROUP) +
                                                   threadIdx.x % 4 * (4 * WORDS));
    }
  }

  static DEVICE void multiply(const Linear&, const GemmRows&, const Weights& w, int,
                              const u8* stage, float (*sums)[TILES][4]) {
    const Records* records = reinterpret_cast<const Records*>(stage);
    int lane = threadIdx.x % 32;
    u32 a[2][2][4];
#pragma unroll
    for (int i = 0; i < 4; i++) Of::halves(w.words[i / 2][i % 2], a[i / 2][i % 2]);
#pragma unroll
    for (int n = 0; n < TILES; n++) {
      float c[2][4] = {};
#pragma unroll
      for (int term = Of::TERMS - 1; term >= 0; term--) {
        // Lane l names row l % 8 of matrix l / 8: of a slot, eight of the term's 32 places.
        u32 b[4];
        ldmatrix_x4(b, records[8 * n + lane % 8].terms[term] + lane / 8 * 8);
        multiply_term(a, b, c);
      }
      int slot = 8 * n + 2 * (lane % 4);
      float scale[2] = {records[slot].scale, records[slot + 1].scale};
#pragma unroll
      for (int e = 0; e < 8; e++) sums[e / 4][n][e % 4] += scale[e % 2] * c[e / 4][e % 4];
    }
  }

  static DEVICE void multiply_term(const u32 (*w)[2][4], const u32 b[4], float (*c)[4]) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
      for (int s = 0; s < 4; s += 2) {
        u32 a[4] = {w[i][0][s], w[i][1][s], w[i][0][s + 1], w[i][1][s + 1]};
        Of::mma(c[i], a, b + s);
      }
    }
  }

  static DEVICE void finish(const GemmRows& rows, float (*sums)[TILES][4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float scale = F::scale(rows.planes[i / 2], rows.row[i / 2][i % 2]);
#pragma unroll
      for (int n = 0; n < TILES; n++) {
        sums[i / 2][n][i % 2 * 2] *= scale;
        sums[i / 2][n][i % 2 * 2 + 1] *= scale;
      }
    }
  }
};

#define GEMM(name, tiles, split, blocks, gated)               \
  KERNEL_RESIDENT(name, 128, blocks, (Linear p)) {            \
    DYNAMIC_SHARED(uint4, shared);                            \
    gemm<HalvesStep<FORMAT, tiles, split>, gated>(p, shared);  \
  }
GEMM(gemm_16, 2, 4, 4, false)
GEMM(gemm_64, 8, 1, 2, false)
GEMM(gated_gemm_16, 2, 4, 4, true)
GEMM(gated_gemm_64, 8, 1, 2, true)
