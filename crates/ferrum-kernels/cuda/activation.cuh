// Non-linearities, by the numbers of `src/cuda/pointwise.rs`.
#pragma once
#include "ptx.cuh"

// x * sigmoid(y)
DEVICE float times_sigmoid(float x, float y) { return x / (1.0f + expf(-y)); }

// Neither form of gelu adds 1 to what is nearly -1: (1 + tanh(u)) / 2 is the sigmoid of 2u, and
// 1 + erf(u) is erfc(-u).
DEVICE float activation(float x, int which) {
  switch (which) {
    case 0: return times_sigmoid(x, x);
    case 1: return times_sigmoid(x, 1.5957691216057308f * (x + 0.044715f * x * x * x));
    case 2: return 0.5f * x * erfcf(-0.7071067811865476f * x);
    default: return fmaxf(x, 0.0f);
  }
}
