// Non-linearities, by the numbers of `src/cuda/pointwise.rs`.
#pragma once
#include "ptx.cuh"

DEVICE float activation(float x, int which) {
  switch (which) {
    case 0: return x / (1.0f + expf(-x));
    case 1: return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
    case 2: return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f));
    default: return fmaxf(x, 0.0f);
  }
}
