// Activations as the kernels of quantised weights take them: signed bytes with a scale per 32
// columns, made once per input and shared by all of its outputs, of whatever format.
#pragma once
#include "ptx.cuh"

// Two groups of 32 columns: 80 bytes, so that eight records of a token tile lie in different banks
// of shared memory, and 16 bytes of each can be read at once.
struct Record {
  i8 values[64];
  struct Group {
    float scale;  // a value is worth `scale`
    u32 sums;     // of the first 16 values (lower half) and of the last 16, signed
  } groups[2];
};

constexpr int RECORD_COLUMNS = 64;
constexpr int RECORD_BYTES = 80;
static_assert(sizeof(Record) == RECORD_BYTES, "five loads of 16 bytes");

DEVICE int first_sum(u32 sums) { return (i16)(sums & 0xffff); }
DEVICE int second_sum(u32 sums) { return (i16)(sums >> 16); }
