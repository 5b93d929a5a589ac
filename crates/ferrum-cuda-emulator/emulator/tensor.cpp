// The tensor cores: whole products of a warp's fragments, whose layouts are those of the PTX ISA,
// section "Warp Level Matrix Instructions"; g = lane / 4 is a lane's group, t = lane % 4 its place
// in the group.
#include <cstring>

#include "driver.h"

using namespace emulator;

namespace {

template <class To, class From>
To bits_as(From from) {
  To to;
  static_assert(sizeof to == sizeof from, "bits_as keeps the size");
  memcpy(&to, &from, sizeof to);
  return to;
}

float f16_of(unsigned pair, int i) {
  return (float)bits_as<_Float16>((uint16_t)(pair >> (16 * i)));
}
float bf16_of(unsigned pair, int i) { return bits_as<float>(pair >> (16 * i) << 16); }
int byte_of(unsigned four, int i) { return (int8_t)(four >> (8 * i)); }

// a [16, K] · b [K, 8]: `Packed` numbers in a register, which `unpack(register, i)` gives, and
// `Parts` registers of b in a lane, each for 4 · Packed of K.
template <class Sum, int Packed, int Parts, Sum unpack(unsigned, int)>
void multiply(Slot* slots) {
  constexpr int Each = 4 * Packed, K = Each * Parts;
  Sum a[16][K], b[K][8], product[16][8] = {};
  for (int lane = 0; lane < 32; lane++) {
    Fragments<Sum> from;
    memcpy(&from, slots[lane].bytes, sizeof from);
    int g = lane / 4, t = lane % 4;
    for (int i = 0; i < Packed; i++) {
      for (int part = 0; part < 2 * Parts; part++)
        a[g + 8 * (part % 2)][Packed * t + i + Each * (part / 2)] = unpack(from.a[part], i);
      for (int part = 0; part < Parts; part++)
        b[Packed * t + i + Each * part][g] = unpack(from.b[part], i);
    }
  }
  for (int row = 0; row < 16; row++)
    for (int k = 0; k < K; k++)
      for (int column = 0; column < 8; column++)
        product[row][column] += a[row][k] * b[k][column];
  for (int lane = 0; lane < 32; lane++) {
    int g = lane / 4, t = lane % 4;
    unsigned char* back = slots[lane].bytes + offsetof(Fragments<Sum>, product);
    memcpy(back, &product[g][2 * t], 2 * sizeof(Sum));
    memcpy(back + 2 * sizeof(Sum), &product[g + 8][2 * t], 2 * sizeof(Sum));
  }
}

}  // namespace

EXPORT void emulator_multiply_f16(Slot* slots) { multiply<float, 2, 2, f16_of>(slots); }
EXPORT void emulator_multiply_bf16(Slot* slots) { multiply<float, 2, 2, bf16_of>(slots); }
EXPORT void emulator_multiply_s8(Slot* slots) { multiply<int, 4, 2, byte_of>(slots); }
EXPORT void emulator_multiply_s8_k16(Slot* slots) { multiply<int, 4, 1, byte_of>(slots); }
