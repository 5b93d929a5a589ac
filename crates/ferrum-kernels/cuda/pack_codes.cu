// Packs a quantised weight: from the blocks of the file to planes (`formats.cuh`), and back to
// numbers for `embed`. Compiled for each format, with `FORMAT` defined as its name.
#include "formats.cuh"

#ifndef FORMAT
#define FORMAT Q4_K
#endif

// Puts the code of a column where `unpack` finds it.
template <class F>
DEVICE void place(u32* low, u32* high, int column, u32 code) {
  int j = column / 4, at = 8 * (column % 4);
  u32 l = code & ((1u << F::LOW) - 1), h = code >> F::LOW;
  if (F::LOW == 8) low[j] |= l << at;
  if (F::LOW == 4) low[j % 4] |= l << (at + 4 * (j / 4));
  if (F::LOW == 2) low[j / 4] |= l << (at + 2 * (j % 4));
  if (F::HIGH == 1) high[0] |= h << (at + j);
  if (F::HIGH == 2) high[j / 4] |= h << (at + 2 * (j % 4));
}

// Planes of the blocks from `first` on, of which `src` has `blocks`; a thread for each group. Reads
// and writes the bytes of the file once: 9.4 + 9.4 MB of 4096 x 4096 in Q4_K.
template <class F>
DEVICE void pack_groups(const u8* src, u8* low, u8* high, u8* scales, u8* factors, i64 first,
                        i64 blocks) {
  i64 group = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (group >= blocks * F::GROUPS) return;
  const u8* block = src + group / F::GROUPS * F::BLOCK;
  int within = (int)(group % F::GROUPS);
  u32 l[F::LOW] = {}, h[F::HIGH + 1] = {};
#pragma unroll
  for (int i = 0; i < GROUP; i++) place<F>(l, h, i, F::code(block, GROUP * within + i));

  i64 to = first * F::GROUPS + group;
  u32* to_low = reinterpret_cast<u32*>(low) + to * F::LOW;
  u32* to_high = reinterpret_cast<u32*>(high) + to * F::HIGH;
  for (int i = 0; i < F::LOW; i++) to_low[i] = l[i];
  for (int i = 0; i < F::HIGH; i++) to_high[i] = h[i];
  if (within > 0) return;
  i64 to_block = to / F::GROUPS;
  for (int i = 0; i < F::SCALES; i++) {
    scales[to_block * F::SCALES + i] = block[F::SCALES_AT + i];
  }
  for (int i = 0; i < F::FACTORS; i++) {
    factors[to_block * F::FACTORS + i] = block[F::FACTORS_AT + i];
  }
}

KERNEL(pack, 128, (const u8* src, u8* low, u8* high, u8* scales, u8* factors, i64 first,
                   i64 blocks)) {
  pack_groups<FORMAT>(src, low, high, scales, factors, first, blocks);
}

// dst[t, :] (+)= scale * table[tokens[t], :], a thread for each group of 32 columns. Reads the rows
// and writes 4 bytes a value: of 512 tokens of 4096 columns in Q4_K 1.2 + 8.4 MB.
template <class F>
DEVICE void embed_groups(Planes table, const i32* tokens, float* dst, int count, int rows,
                         int groups, float scale, int accumulate) {
  i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (i64)count * groups) return;
  int row = tokens[at / groups];
  if (row < 0 || row >= rows) return;
  i64 group = (i64)row * groups + at % groups;
  u32 words[8];
  load_group<F>(table, group, words);
  Scales<F::HALVES> s = F::scales(table, group);
  float4* out = reinterpret_cast<float4*>(dst + at * GROUP);
#pragma unroll
  for (int j = 0; j < 8; j++) {
    int half = F::HALVES == 2 ? j / 4 : 0;
    float v[4];
#pragma unroll
    for (int b = 0; b < 4; b++) {
      int code = (i8)(words[j] >> (8 * b) & 255) - s.zero;
      v[b] = scale * (s.scale[half] * (float)code + s.min[half]);
    }
    float4 before = {0, 0, 0, 0};
    if (accumulate) before = out[j];
    out[j] = {before.x + v[0], before.y + v[1], before.z + v[2], before.w + v[3]};
  }
}

KERNEL(embed, 128, (Planes table, const i32* tokens, float* dst, int count, int rows,
                    int groups, float scale, int accumulate)) {
  embed_groups<FORMAT>(table, tokens, dst, count, rows, groups, scale, accumulate);
}
