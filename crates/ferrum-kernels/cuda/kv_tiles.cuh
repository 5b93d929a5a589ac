// Tiles of keys and values in shared memory, in the 16 bits that tensor cores take. F16 and BF16 are
// copied there as they are. E4M3 and the bytes of Q8_0 are copied as bytes and then widened to F16,
// which has all of their numbers; the scales of Q8_0 stay beside them.
#pragma once
#include "attention.cuh"

// Numbers of a row of shared memory: 16 bytes more than it has values, so that the eight rows of a
// matrix lie in different banks.
template <int DIM>
constexpr int MMA_STRIDE = DIM + 8;

template <KvType TYPE>
constexpr bool WIDENED = VALUE_BYTES<TYPE> == 1;

// Scales of a position.
template <KvType TYPE, int DIM>
constexpr int KV_SCALES = TYPE == KV_Q8_0 ? DIM / SCALE_GROUP : 0;

// Some positions of one head. What is widened has one place for the numbers of keys and of values,
// which are used one after the other, and one for the bytes of each.
template <KvType TYPE, int DIM, int KEYS>
struct KvTile {
  u16* numbers;  // [KEYS, MMA_STRIDE]
  u8* bytes;     // [KEYS, DIM], of what is widened
  u16* scales;   // [KEYS, KV_SCALES]

  static constexpr int NUMBERS = KEYS * MMA_STRIDE<DIM> * 2;  // bytes of `numbers`
  static constexpr int OWN = WIDENED<TYPE> ? KEYS * (DIM + 2 * KV_SCALES<TYPE, DIM>) : NUMBERS;
  // Bytes of a tile of keys and one of values (`tile_bytes` of the launcher).
  static constexpr int PAIR = (WIDENED<TYPE> ? NUMBERS : 0) + 2 * OWN;

  // Keys (0) or values (1) of the pair at `memory`.
  DEVICE static KvTile of_pair(u8* memory, int which) {
    if constexpr (WIDENED<TYPE>) {
      u8* bytes = memory + NUMBERS + which * OWN;
      return {reinterpret_cast<u16*>(memory), bytes, reinterpret_cast<u16*>(bytes + KEYS * DIM)};
    } else {
      return {reinterpret_cast<u16*>(memory + which * OWN), nullptr, nullptr};
    }
  }
};

// Turns of the outer loops that are unrolled: more would keep too many addresses in registers.
template <int DIM>
constexpr int MMA_UNROLL = DIM > 128 ? 1 : 2;

// Starts copying the positions `at .. at + KEYS`. Those outside `begin .. end` become zero: what nobody
// has written may be no number. By `THREADS` threads, of which this is number `thread`.
template <int THREADS, KvType TYPE, int DIM, int KEYS>
DEVICE void copy_tile(const KvTile<TYPE, DIM, KEYS>& to, const PagedRows& from, int thread, int at,
                      int begin, int end) {
  constexpr int ROW = DIM * VALUE_BYTES<TYPE>, PIECES = ROW / 16;
#pragma unroll MMA_UNROLL<DIM>
  for (int i = thread; i < KEYS * PIECES; i += THREADS) {
    int row = i / PIECES, piece = i % PIECES, position = at + row;
    bool valid = position >= begin && position < end;
    position = valid ? position : begin;
    i64 source = from.first_row(position / KV_BLOCK) + position % KV_BLOCK;
    u8* place = WIDENED<TYPE> ? to.bytes + row * DIM
                              : reinterpret_cast<u8*>(to.numbers + row * MMA_STRIDE<DIM>);
    cp_async16_or_zero(place + piece * 16, from.values + source * ROW + piece * 16, valid);
  }
  if constexpr (TYPE == KV_Q8_0) {
    // Those of the positions of a cache block lie together; `widen_tile` makes zeroes of some.
    constexpr int SCALES = KV_SCALES<TYPE, DIM>, BLOCK_PIECES = KV_BLOCK * SCALES / 8;
    for (int i = thread; i < KEYS * SCALES / 8; i += THREADS) {
      int piece = at % KV_BLOCK * SCALES / 8 + i, first = at - at % KV_BLOCK;
      int block = first + piece / BLOCK_PIECES * KV_BLOCK;
      bool valid = block + KV_BLOCK > begin && block < end;
      i64 source = from.first_row((valid ? block : begin) / KV_BLOCK);
      cp_async16_or_zero(to.scales + i * 8,
                         from.scales + source * SCALES + piece % BLOCK_PIECES * 8, valid);
    }
  }
  cp_async_commit();
}

// Four signed bytes as F16.
DEVICE void widen_bytes(u32 bytes, u32& low, u32& high) {
  // The last places of numbers from 2^10 on are ones: each byte becomes 1024 + 128 + its value.
  u32 offset = bytes ^ 0x80808080u;
  low = sub_f16x2(__byte_perm(offset, 0x64646464u, 0x4140), 0x64806480u);
  high = sub_f16x2(__byte_perm(offset, 0x64646464u, 0x4342), 0x64806480u);
}

// Two E4M3 numbers, each in the upper byte of its half, as F16.
DEVICE u32 widen_e4m3x2(u32 halves) {
  // With the exponent as it is a number is too small by 2^8, a subnormal one included.
  u32 magnitude = (halves & 0x7f007f00u) >> 1;
  u32 number = mul_f16x2(magnitude | (halves & 0x80008000u), 0x5c005c00u);
  // All bits set is no number: then a carry reaches bit 14, and all below it are set too.
  u32 none = (magnitude + 0x00800080u) & 0x40004000u;
  return number | ((none << 1) - (none >> 14));
}

// Widens a tile whose bytes are there, for all threads that have been synchronised; `copy_tile` has
// the meaning of the rest.
template <int THREADS, KvType TYPE, int DIM, int KEYS>
DEVICE void widen_tile(const KvTile<TYPE, DIM, KEYS>& tile, int thread, int at, int begin,
                       int end) {
#pragma unroll 1
  for (int i = thread; i < KEYS * DIM / 8; i += THREADS) {
    int row = i / (DIM / 8), piece = i % (DIM / 8);
    uint2 bytes = *reinterpret_cast<const uint2*>(tile.bytes + row * DIM + piece * 8);
    uint4 wide;
    if constexpr (TYPE == KV_Q8_0) {
      widen_bytes(bytes.x, wide.x, wide.y);
      widen_bytes(bytes.y, wide.z, wide.w);
    } else {
      wide.x = widen_e4m3x2(__byte_perm(bytes.x, 0, 0x1404));
      wide.y = widen_e4m3x2(__byte_perm(bytes.x, 0, 0x3424));
      wide.z = widen_e4m3x2(__byte_perm(bytes.y, 0, 0x1404));
      wide.w = widen_e4m3x2(__byte_perm(bytes.y, 0, 0x3424));
    }
    *reinterpret_cast<uint4*>(tile.numbers + row * MMA_STRIDE<DIM> + piece * 8) = wide;
  }
  if constexpr (TYPE == KV_Q8_0) {
    constexpr int SCALES = KV_SCALES<TYPE, DIM>;
    for (int i = thread; i < KEYS * SCALES; i += THREADS) {
      int position = at + i / SCALES;
      if (position < begin || position >= end) tile.scales[i] = 0;
    }
  }
}
