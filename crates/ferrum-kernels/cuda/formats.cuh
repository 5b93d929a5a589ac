// The weight formats on the device: how a weight lies in memory, and what its codes stand for.
//
// A weight is taken apart when it is packed (`pack_codes.cu`). Columns are worked on in groups of
// 32, and every format is brought into the same order, in exactly the bytes of the file:
//
// - the plane `low` has, for each group, the lower LOW bits of its 32 codes as LOW words, and the
//   plane `high` the HIGH bits above them as HIGH words;
// - the planes `scales` and `factors` have what a block says about its codes, in the file's bytes.
//
// So whatever a thread asks for is aligned, and threads that take neighbouring groups read
// neighbouring bytes. Within a group, word `j` of eight holds the codes of the columns 4j to 4j + 3,
// one in a byte, as both `dp4a` and the tensor cores take them. `unpack` makes the words `j` and
// `j + 4` at once, because of 4-bit codes these two lie in the nibbles of one stored word.
#pragma once
#include "ptx.cuh"

// Columns that are worked on together.
constexpr int GROUP = 32;

// One weight matrix, or a stack of them.
struct Planes {
  const u8* low;      // [rows, groups, 4 * LOW]
  const u8* high;     // [rows, groups, 4 * HIGH]
  const u8* scales;   // [rows, blocks, SCALES], or of single numbers f32 [rows]
  const u8* factors;  // [rows, blocks, FACTORS]
};

// What the codes of a group stand for: `scale * (code - zero) + min`, with a scale and a minimum
// for all 32 (HALVES = 1) or for 16 each (HALVES = 2).
template <int HALVES>
struct Scales {
  float scale[HALVES];
  float min[HALVES];
  int zero;
};

DEVICE u16 load_u16(const u8* p) { return *reinterpret_cast<const u16*>(p); }
DEVICE u32 load_u32(const u8* p) { return *reinterpret_cast<const u32*>(p); }
DEVICE float load_f16(const u8* p) { return f16_to_f32(load_u16(p)); }
DEVICE float low_f16(u32 pair) { return f16_to_f32((u16)(pair & 0xffff)); }
DEVICE float high_f16(u32 pair) { return f16_to_f32((u16)(pair >> 16)); }

// --- codes in the file, by column; used when packing alone

// Code `i` of 32 nibbles in 16 bytes: first the low ones, then the high ones.
DEVICE u32 nibble(const u8* bytes, int i) { return (bytes[i % 16] >> (4 * (i / 16))) & 15; }
// Bit `i` of a string of bits.
DEVICE u32 bit(const u8* bytes, int i) { return (bytes[i / 8] >> (i % 8)) & 1; }
// Two bits of column `i` of 256: 128 columns in each 32 bytes.
DEVICE u32 two_bits(const u8* bytes, int i) {
  return (bytes[i / 128 * 32 + i % 32] >> (2 * (i / 32 % 4))) & 3;
}
// Four bits of column `i` of 256: 64 columns in each 32 bytes.
DEVICE u32 four_bits(const u8* bytes, int i) {
  return (bytes[i / 64 * 32 + i % 32] >> (4 * (i / 32 % 2))) & 15;
}
// One bit of column `i` of 256: bit `j` of a byte belongs to the `j`-th 32.
DEVICE u32 one_bit(const u8* bytes, int i) { return (bytes[i % 32] >> (i / 32)) & 1; }

// --- the formats
//
// LOW, HIGH: bits of a code in either plane. GROUPS: groups in a block. BLOCK: bytes of a block in
// the file, of which SCALES at SCALES_AT and FACTORS at FACTORS_AT are kept as they are.
// `code`: of column `i` of a block in the file. `scales`: of a group, counted over all rows.
// `value`: turns four codes into four signed bytes.

template <int LOW_, int HIGH_, int GROUPS_, int HALVES_, bool MINIMA_>
struct Codes {
  static constexpr int LOW = LOW_, HIGH = HIGH_, GROUPS = GROUPS_, HALVES = HALVES_;
  static constexpr bool MINIMA = MINIMA_;
  static constexpr int FACTORS = 0, FACTORS_AT = 0;
  static DEVICE u32 value(u32 codes) { return codes; }
};

struct Q4_0 : Codes<4, 0, 1, 1, false> {
  static constexpr int BLOCK = 18, SCALES = 2, SCALES_AT = 0;
  static DEVICE u32 code(const u8* block, int i) { return nibble(block + 2, i); }
  static DEVICE Scales<1> scales(const Planes& w, i64 group) {
    return {{load_f16(w.scales + 2 * group)}, {0}, 8};
  }
};

struct Q4_1 : Codes<4, 0, 1, 1, true> {
  static constexpr int BLOCK = 20, SCALES = 4, SCALES_AT = 0;
  static DEVICE u32 code(const u8* block, int i) { return nibble(block + 4, i); }
  static DEVICE Scales<1> scales(const Planes& w, i64 group) {
    u32 pair = load_u32(w.scales + 4 * group);
    return {{low_f16(pair)}, {high_f16(pair)}, 0};
  }
};

struct Q5_0 : Codes<4, 1, 1, 1, false> {
  static constexpr int BLOCK = 22, SCALES = 2, SCALES_AT = 0;
  static DEVICE u32 code(const u8* block, int i) {
    return nibble(block + 6, i) | bit(block + 2, i) << 4;
  }
  static DEVICE Scales<1> scales(const Planes& w, i64 group) {
    return {{load_f16(w.scales + 2 * group)}, {0}, 16};
  }
};

struct Q5_1 : Codes<4, 1, 1, 1, true> {
  static constexpr int BLOCK = 24, SCALES = 4, SCALES_AT = 0;
  static DEVICE u32 code(const u8* block, int i) {
    return nibble(block + 8, i) | bit(block + 4, i) << 4;
  }
  static DEVICE Scales<1> scales(const Planes& w, i64 group) { return Q4_1::scales(w, group); }
};

struct Q8_0 : Codes<8, 0, 1, 1, false> {
  static constexpr int BLOCK = 34, SCALES = 2, SCALES_AT = 0;
  static DEVICE u32 code(const u8* block, int i) { return block[2 + i]; }
  static DEVICE Scales<1> scales(const Planes& w, i64 group) {
    return {{load_f16(w.scales + 2 * group)}, {0}, 0};
  }
};

struct Q4_Z : Codes<4, 0, 1, 1, false> {
  static constexpr int BLOCK = 19, SCALES = 2, SCALES_AT = 0;
  static constexpr int FACTORS = 1, FACTORS_AT = 2;
  static DEVICE u32 code(const u8* block, int i) { return nibble(block + 3, i); }
  static DEVICE Scales<1> scales(const Planes& w, i64 group) {
    return {{load_f16(w.scales + 2 * group)}, {0}, w.factors[group]};
  }
};

// A byte of scales has the scale (low nibble) and the minimum (high) of 16 columns; `d, dmin`.
struct Q2_K : Codes<2, 0, 8, 2, true> {
  static constexpr int BLOCK = 84, SCALES = 16, SCALES_AT = 0;
  static constexpr int FACTORS = 4, FACTORS_AT = 80;
  static DEVICE u32 code(const u8* block, int i) { return two_bits(block + 16, i); }
  static DEVICE Scales<2> scales(const Planes& w, i64 group) {
    u32 sc = load_u16(w.scales + 2 * group), pair = load_u32(w.factors + 4 * (group / 8));
    float d = low_f16(pair), dmin = -high_f16(pair);
    return {{d * (float)(sc & 15), d * (float)((sc >> 8) & 15)},
            {dmin * (float)((sc >> 4) & 15), dmin * (float)(sc >> 12)},
            0};
  }
};

// Sixteen 6-bit scales in 12 bytes: 0-7 hold the low nibbles (scales 0-7 low, 8-15 high), 8-11 the
// upper two bits of the scales `i`, `i + 4`, `i + 8`, `i + 12`.
struct Q3_K : Codes<2, 1, 8, 2, false> {
  static constexpr int BLOCK = 110, SCALES = 12, SCALES_AT = 96;
  static constexpr int FACTORS = 2, FACTORS_AT = 108;
  static DEVICE u32 code(const u8* block, int i) {
    return two_bits(block + 32, i) | one_bit(block, i) << 2;
  }
  static DEVICE float six_bits(const u8* bytes, int i) {
    int low = (bytes[i % 8] >> (4 * (i / 8))) & 15, high = (bytes[8 + i % 4] >> (2 * (i / 4))) & 3;
    return (float)((low | high << 4) - 32);
  }
  static DEVICE Scales<2> scales(const Planes& w, i64 group) {
    const u8* bytes = w.scales + 12 * (group / 8);
    float d = load_f16(w.factors + 2 * (group / 8));
    int first = 2 * (int)(group % 8);
    return {{d * six_bits(bytes, first), d * six_bits(bytes, first + 1)}, {0, 0}, 4};
  }
};

// `d, dmin`, then eight 6-bit scales and minima in 12 bytes: 0-3 hold scales 0-3, 4-7 minima 0-3,
// 8-11 the low nibbles of scales and minima 4-7, whose upper two bits are those of bytes 0-7.
struct Q4_K : Codes<4, 0, 8, 1, true> {
  static constexpr int BLOCK = 144, SCALES = 16, SCALES_AT = 0;
  static DEVICE u32 code(const u8* block, int i) { return four_bits(block + 16, i); }
  static DEVICE Scales<1> scales(const Planes& w, i64 group) {
    uint4 header = *reinterpret_cast<const uint4*>(w.scales + 16 * (group / 8));
    int i = (int)(group % 8), at = 8 * (i % 4);
    u32 s = header.y >> at, m = header.z >> at, low = header.w >> at;
    u32 sc = i < 4 ? s & 63 : (low & 15) | (s >> 6 & 3) << 4;
    u32 mn = i < 4 ? m & 63 : (low >> 4 & 15) | (m >> 6 & 3) << 4;
    return {{low_f16(header.x) * (float)sc}, {-high_f16(header.x) * (float)mn}, 0};
  }
};

struct Q5_K : Codes<4, 1, 8, 1, true> {
  static constexpr int BLOCK = 176, SCALES = 16, SCALES_AT = 0;
  static DEVICE u32 code(const u8* block, int i) {
    return four_bits(block + 48, i) | one_bit(block + 16, i) << 4;
  }
  static DEVICE Scales<1> scales(const Planes& w, i64 group) { return Q4_K::scales(w, group); }
};

struct Q6_K : Codes<4, 2, 8, 2, false> {
  static constexpr int BLOCK = 210, SCALES = 16, SCALES_AT = 192;
  static constexpr int FACTORS = 2, FACTORS_AT = 208;
  static DEVICE u32 code(const u8* block, int i) {
    int half = i / 128, j = i % 128;
    u32 low = (block[half * 64 + j % 64] >> (4 * (j / 64))) & 15;
    return low | two_bits(block + 128, i) << 4;
  }
  static DEVICE Scales<2> scales(const Planes& w, i64 group) {
    u32 sc = load_u16(w.scales + 2 * group);
    float d = load_f16(w.factors + 2 * (group / 8));
    return {{d * (float)(i8)(sc & 255), d * (float)(i8)(sc >> 8)}, {0, 0}, 32};
  }
};

// Four bytes, each the index of one of the 16 signed bytes of a table of four words.
DEVICE u32 look_up(u32 indices, u32 t0, u32 t1, u32 t2, u32 t3) {
  u32 nibbles = __byte_perm(indices | indices >> 4, 0, 0x4420);
  u32 within = nibbles & 0x7777;
  u32 below = __byte_perm(t0, t1, within), above = __byte_perm(t2, t3, within);
  return __byte_perm(below, above, 0x3210 | (nibbles & 0x8888) >> 1);
}

// -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113
struct IQ4_NL : Codes<4, 0, 1, 1, false> {
  static constexpr int BLOCK = 18, SCALES = 2, SCALES_AT = 0;
  static DEVICE u32 code(const u8* block, int i) { return nibble(block + 2, i); }
  static DEVICE u32 value(u32 codes) {
    return look_up(codes, 0xbfad9881, 0xf6eaddcf, 0x26190d01, 0x71594535);
  }
  static DEVICE Scales<1> scales(const Planes& w, i64 group) {
    return {{load_f16(w.scales + 2 * group)}, {0}, 0};
  }
};

// `d`, a word with the upper bit pairs of eight 6-bit scales, then their low nibbles.
struct IQ4_XS : Codes<4, 0, 8, 1, false> {
  static constexpr int BLOCK = 136, SCALES = 8, SCALES_AT = 0;
  static DEVICE u32 code(const u8* block, int i) { return nibble(block + 8 + i / 32 * 16, i % 32); }
  static DEVICE u32 value(u32 codes) { return IQ4_NL::value(codes); }
  static DEVICE Scales<1> scales(const Planes& w, i64 group) {
    uint2 header = *reinterpret_cast<const uint2*>(w.scales + 8 * (group / 8));
    int i = (int)(group % 8);
    int low = header.y >> (4 * i) & 15, high = header.x >> (16 + 2 * i) & 3;
    return {{low_f16(header.x) * (float)((low | high << 4) - 32)}, {0}, 0};
  }
};

// Twice the values of E2M1 (0 1 2 3 4 6 8 12 and the same below zero), with half the scale.
struct MXFP4 : Codes<4, 0, 1, 1, false> {
  static constexpr int BLOCK = 17, SCALES = 1, SCALES_AT = 0;
  static DEVICE u32 code(const u8* block, int i) { return nibble(block + 1, i); }
  static DEVICE u32 value(u32 codes) {
    return look_up(codes, 0x03020100, 0x0c080604, 0xfdfeff00, 0xf4f8fafc);
  }
  static DEVICE Scales<1> scales(const Planes& w, i64 group) {
    u32 e = w.scales[group];
    // Of the two smallest exponents, half the scale is a subnormal number.
    return {{__uint_as_float(e < 2 ? 0x200000u << e : (e - 1) << 23)}, {0}, 0};
  }
};

// --- from planes to codes

// `N` words that are aligned to as many, or to four.
template <int N>
DEVICE void load_words(u32* words, const u8* p) {
  if (N == 1) words[0] = load_u32(p);
  if (N == 2) {
    uint2 v = *reinterpret_cast<const uint2*>(p);
    words[0] = v.x, words[1] = v.y;
  }
#pragma unroll
  for (int i = 0; i + 4 <= N; i += 4) {
    uint4 v = reinterpret_cast<const uint4*>(p)[i / 4];
    words[i] = v.x, words[i + 1] = v.y, words[i + 2] = v.z, words[i + 3] = v.w;
  }
}

// The words `j` and `j + 4` of a group, as signed bytes. `low` and `high` are the stored words that
// they come from: of 8-bit codes the words `j` and `j + 4`, of 4-bit codes the word `j`, else all.
template <class F>
DEVICE void unpack(const u32* low, const u32* high, int j, u32 words[2]) {
  if (F::LOW == 8) words[0] = low[0], words[1] = low[1];
  if (F::LOW == 4) words[0] = low[0] & 0x0f0f0f0f, words[1] = low[0] >> 4 & 0x0f0f0f0f;
  if (F::LOW == 2) {
    words[0] = low[0] >> (2 * j) & 0x03030303, words[1] = low[1] >> (2 * j) & 0x03030303;
  }
  if (F::HIGH == 1) {
    words[0] |= (high[0] >> j & 0x01010101) << F::LOW;
    words[1] |= (high[0] >> (j + 4) & 0x01010101) << F::LOW;
  }
  if (F::HIGH == 2) {
    words[0] |= (high[0] >> (2 * j) & 0x03030303) << F::LOW;
    words[1] |= (high[1] >> (2 * j) & 0x03030303) << F::LOW;
  }
  words[0] = F::value(words[0]), words[1] = F::value(words[1]);
}

// All eight words of a group, counted over all rows.
template <class F>
DEVICE void load_group(const Planes& w, i64 group, u32 words[8]) {
  u32 low[F::LOW], high[F::HIGH + 1];
  load_words<F::LOW>(low, w.low + group * (4 * F::LOW));
  load_words<F::HIGH>(high, w.high + group * (4 * F::HIGH));
#pragma unroll
  for (int j = 0; j < 4; j++) {
    u32 own[2] = {low[F::LOW == 2 ? 0 : j], low[F::LOW == 2 ? 1 : F::LOW == 8 ? j + 4 : j]};
    u32 pair[2];
    unpack<F>(own, high, j, pair);
    words[j] = pair[0], words[j + 4] = pair[1];
  }
}
