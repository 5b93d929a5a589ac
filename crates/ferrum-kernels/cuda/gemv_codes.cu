// Products of a quantised weight with few tokens, by sums of four products of bytes. Compiled for
// each format, with `FORMAT` defined as its name.
//
// Of 4096 x 4096 in Q4_K and one token, 9.4 MB are read for the weight; 33.6 million operations.
// Two to eight tokens read as much, as each group is unpacked once for all of them.
#include "gemv.cuh"
#include "products.cuh"

#ifndef FORMAT
#define FORMAT Q4_K
#endif

template <class F>
struct CodesStep {
  template <int TOKENS>
  static DEVICE void multiply(const Linear& p, const GemvRows& rows, const int* inputs,
                              float (*sums)[TOKENS]) {
    const Record* records = reinterpret_cast<const Record*>(p.input);
    int per_row = (p.groups + 1) / 2;
    for (int group = threadIdx.x % 32; group < p.groups; group += 32) {
      u32 words[GEMV_ROWS][8];
      Scales<F::HALVES> scales[GEMV_ROWS];
#pragma unroll
      for (int r = 0; r < GEMV_ROWS; r++) {
        i64 at = rows.row[r] * p.groups + group;
        load_group<F>(rows.planes[r], at, words[r]);
        scales[r] = F::scales(rows.planes[r], at);
      }
#pragma unroll
      for (int t = 0; t < TOKENS; t++) {
        const Record& record = records[(i64)inputs[t] * per_row + group / 2];
        u32 x[8];
        load_words<8>(x, reinterpret_cast<const u8*>(record.values + GROUP * (group % 2)));
        Record::Group of = record.groups[group % 2];
#pragma unroll
        for (int r = 0; r < GEMV_ROWS; r++) {
          int dots[2] = {0, 0};
#pragma unroll
          for (int j = 0; j < 8; j++) {
            int& dot = dots[F::HALVES == 2 ? j / 4 : 0];
            dot = __dp4a((int)words[r][j], (int)x[j], dot);
          }
          sums[r][t] += of.scale * group_product<F>(scales[r], dots, of.sums);
        }
      }
    }
  }
};

// Blocks that share the registers of a multiprocessor, if each warp works on eight tokens.
constexpr int BLOCKS_8 = FORMAT::HALVES == 2 ? 2 : 3;

#define GEMV(name, tokens, blocks, gated) \
  KERNEL_RESIDENT(name, 128, blocks, (Linear p)) { gemv<CodesStep<FORMAT>, tokens, gated>(p); }
GEMV(gemv_1, 1, 6, false)
GEMV(gemv_2, 2, 5, false)
GEMV(gemv_4, 4, 4, false)
GEMV(gemv_8, 8, BLOCKS_8, false)
GEMV(gated_gemv_1, 1, 6, true)
GEMV(gated_gemv_2, 2, 5, true)
GEMV(gated_gemv_4, 4, 4, true)
GEMV(gated_gemv_8, 8, BLOCKS_8, true)
