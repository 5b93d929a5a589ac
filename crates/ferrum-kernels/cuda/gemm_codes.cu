// Products of a quantised weight with many tokens, by tensor cores on signed bytes. Compiled for
// each format, with `FORMAT` defined as its name.
//
// Of 4096 x 4096 in Q4_K and 512 tokens: 17.2 billion operations; 9.4 MB of weight for each tile of
// 64 tokens, all but the first from the second-level cache, and 2.6 MB of activations for each 128
// rows. A product of tensor cores (16 x 8 results, 32 columns) is followed by a conversion, two
// multiplications and an addition for each result, which take longer on a H100 than it does.
#include "gemm.cuh"
#include "products.cuh"

#ifndef FORMAT
#define FORMAT Q4_K
#endif

template <class F, int TILES_, int SPLIT_>
struct CodesStep {
  static constexpr int TILES = TILES_, SLOTS = 8 * TILES, SPLIT = SPLIT_;
  static constexpr int RECORD = RECORD_BYTES, GROUPS = 2;
  // Stored words from which a lane's two are unpacked.
  static constexpr int LOW = F::LOW == 4 ? 1 : 2, HIGH = F::HIGH;

  // A lane's part of a group: of the rows `g` and `g + 8` of two fragments, the words `t` and
  // `t + 4` (t = lane % 4).
  struct Weights {
    u32 low[2][2][LOW], high[2][2][HIGH + 1];
  };

  static DEVICE void load(const Linear& p, const GemmRows& rows, int group, Weights& w) {
    int t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const Planes& planes = rows.planes[i / 2];
      i64 at = (i64)rows.row[i / 2][i % 2] * p.groups + group;
      u32* low = w.low[i / 2][i % 2];
      const u8* from = planes.low + at * (4 * F::LOW);
      if (F::LOW == 2) {
        load_words<2>(low, from);
      } else {
        low[0] = load_u32(from + 4 * t);
        if (F::LOW == 8) low[LOW - 1] = load_u32(from + 4 * t + 16);
      }
      load_words<HIGH>(w.high[i / 2][i % 2], planes.high + at * (4 * HIGH));
    }
  }

  static DEVICE void multiply(const Linear& p, const GemmRows& rows, const Weights& w, int group,
                              const u8* stage, float (*sums)[TILES][4]) {
    int lane = threadIdx.x % 32, t = lane % 4, within = group % GROUPS;
    u32 a[2][4];
    // These are not read ahead, to save registers: those of a block, or of the groups beside this
    // one, lie in the first-level cache.
    Scales<F::HALVES> scales[2][2];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      u32 words[2];
      unpack<F>(w.low[i / 2][i % 2], w.high[i / 2][i % 2], t, words);
      a[i / 2][i % 2] = words[0], a[i / 2][2 + i % 2] = words[1];
      i64 at = (i64)rows.row[i / 2][i % 2] * p.groups + group;
      scales[i / 2][i % 2] = F::scales(rows.planes[i / 2], at);
    }
    // Lane l names row l % 8 of matrix l / 8: columns 0-15 and 16-31 of a tile, then of the next.
    int row = lane / 16 * 8 + lane % 8, column = GROUP * within + lane / 8 % 2 * 16;
    const u8* own = stage + row * RECORD + column;
#pragma unroll
    for (int n = 0; n < TILES; n += 2) {
      u32 b[4];
      ldmatrix_x4(b, own + 8 * n * RECORD);
      multiply_tile(scales, a, b, stage, within, n, sums);
      multiply_tile(scales, a, b + 2, stage, within, n + 1, sums);
    }
  }

  static DEVICE void finish(const GemmRows&, float (*)[TILES][4]) {}

  // The products of a group with eight slots.
  static DEVICE void multiply_tile(const Scales<F::HALVES> (*scales)[2], const u32 (*a)[4],
                                   const u32* b, const u8* stage, int within, int n,
                                   float (*sums)[TILES][4]) {
    const Record* records = reinterpret_cast<const Record*>(stage);
    int slot = 8 * n + 2 * (threadIdx.x % 4);
    Record::Group x[2] = {records[slot].groups[within], records[slot + 1].groups[within]};
#pragma unroll
    for (int i = 0; i < 2; i++) {
      i32 c[F::HALVES][4] = {};
      if (F::HALVES == 1) {
        mma_s8(c[0], a[i], b);
      } else {
        mma_s8_k16(c[0], a[i], b[0]);
        mma_s8_k16(c[F::HALVES - 1], a[i] + 2, b[1]);
      }
#pragma unroll
      for (int e = 0; e < 4; e++) {
        int dots[2] = {c[0][e], c[F::HALVES - 1][e]};
        sums[i][n][e] += x[e % 2].scale * group_product<F>(scales[i][e / 2], dots, x[e % 2].sums);
      }
    }
  }
};

#define GEMM(name, tiles, split, blocks, gated)               \
  KERNEL_RESIDENT(name, 128, blocks, (Linear p)) {            \
    DYNAMIC_SHARED(uint4, shared);                            \
    gemm<CodesStep<FORMAT, tiles, split>, gated>(p, shared);  \
  }
GEMM(gemm_16, 2, 4, 4, false)
GEMM(gemm_64, 8, 1, 2, false)
GEMM(gated_gemm_16, 2, 4, 4, true)
GEMM(gated_gemm_64, 8, 1, 2, true)
