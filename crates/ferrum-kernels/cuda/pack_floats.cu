// Packs a weight of single numbers (`floats.cuh`), and looks up its rows. Compiled for each format,
// with `FORMAT` defined as its name.
#include "floats.cuh"

#ifndef FORMAT
#define FORMAT F16
#endif

// dst[rows, padded] from src[rows, cols], with zeroes past `cols`; a thread for each value.
KERNEL(pack, 128, (const u8* src, u8* dst, int rows, int cols, int padded)) {
  constexpr int BYTES = FORMAT::BYTES;
  i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (i64)rows * padded) return;
  i64 row = at / padded;
  int col = (int)(at % padded);
  for (int i = 0; i < BYTES; i++) {
    dst[at * BYTES + i] = col < cols ? src[(row * cols + col) * BYTES + i] : 0;
  }
}

// dst[t, :] (+)= scale * table[tokens[t], :], a thread for each value. Reads BYTES and writes 4
// bytes a value: of 512 tokens of 4096 columns in F16 4.2 + 8.4 MB.
KERNEL(embed, 128, (Planes table, const i32* tokens, float* dst, int count, int rows, int cols,
                    int padded, float scale, int accumulate)) {
  i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (i64)count * cols) return;
  int row = tokens[at / cols];
  if (row < 0 || row >= rows) return;
  i64 from = (i64)row * padded + at % cols;
  float value = scale * (FORMAT::scale(table, row) * FORMAT::value(table.low + from * FORMAT::BYTES));
  dst[at] = accumulate ? dst[at] + value : value;
}
