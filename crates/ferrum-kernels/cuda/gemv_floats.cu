// Products of a weight of single numbers with few tokens (of an F32 weight with any number), by
// multiplication and addition in single precision. Compiled for each format, with `FORMAT` defined
// as its name.
//
// Of 4096 x 4096 in F16 and one token, 33.6 MB are read for the weight; 33.6 million operations. Two
// to eight tokens read as much. In E4M3 it is half of that.
#include "floats.cuh"
#include "gemv.cuh"

#ifndef FORMAT
#define FORMAT F16
#endif

// Columns that a lane takes at once, and the warp.
constexpr int LANE_COLUMNS = 8, WARP_COLUMNS = 256;

template <class F>
struct FloatsStep {
  template <int TOKENS>
  static DEVICE void multiply(const Linear& p, const GemvRows& rows, const int* inputs,
                              float (*sums)[TOKENS]) {
    const float* input = reinterpret_cast<const float*>(p.input);
    int padded = GROUP * p.groups;
    for (int col = threadIdx.x % 32 * LANE_COLUMNS; col < padded; col += WARP_COLUMNS) {
      float w[GEMV_ROWS][LANE_COLUMNS];
#pragma unroll
      for (int r = 0; r < GEMV_ROWS; r++) {
        load_eight<F>(rows.planes[r].low + (rows.row[r] * padded + col) * F::BYTES, w[r]);
      }
#pragma unroll
      for (int t = 0; t < TOKENS; t++) {
        float x[LANE_COLUMNS];
        load_input(input + (i64)inputs[t] * p.cols, col, p.cols, x);
#pragma unroll
        for (int r = 0; r < GEMV_ROWS; r++) {
#pragma unroll
          for (int i = 0; i < LANE_COLUMNS; i++) sums[r][t] += w[r][i] * x[i];
        }
      }
    }
#pragma unroll
    for (int r = 0; r < GEMV_ROWS; r++) {
      float scale = F::scale(rows.planes[r], rows.row[r]);
#pragma unroll
      for (int t = 0; t < TOKENS; t++) sums[r][t] *= scale;
    }
  }
};

#define GEMV(name, tokens, blocks, gated) \
  KERNEL_RESIDENT(name, 128, blocks, (Linear p)) { gemv<FloatsStep<FORMAT>, tokens, gated>(p); }
GEMV(gemv_1, 1, 6, false)
GEMV(gemv_2, 2, 5, false)
GEMV(gemv_4, 4, 4, false)
GEMV(gemv_8, 8, 3, false)
GEMV(gated_gemv_1, 1, 6, true)
GEMV(gated_gemv_2, 2, 5, true)
GEMV(gated_gemv_4, 4, 4, true)
GEMV(gated_gemv_8, 8, 3, true)
