// Rotary position embedding, in place: a block a token, a thread a pair of values.
#include "ptx.cuh"

// Rotates the pair of values `a` and `b` by the angle whose cosine and sine are given.
DEVICE void rotate(float* a, float* b, float2 angle) {
  float x = *a, y = *b;
  *a = x * angle.x - y * angle.y;
  *b = x * angle.y + y * angle.x;
}

// x: [T, heads, head_dim]; table: [positions, rotary_dim / 2] of cosine and sine.
#define ROPE(name, first, second)                                                              \
  KERNEL(name, 256,                                                                            \
         (float* x, const float2* table, const int* positions, int heads, int head_dim,        \
          int rotary_dim)) {                                                                   \
    int half = rotary_dim / 2;                                                                 \
    float* row = x + (u64)blockIdx.x * heads * head_dim;                                       \
    const float2* angles = table + (u64)positions[blockIdx.x] * half;                          \
    for (int n = threadIdx.x; n < heads * half; n += blockDim.x) {                             \
      int i = n % half;                                                                        \
      float* head = row + n / half * head_dim;                                                 \
      rotate(head + (first), head + (second), angles[i]);                                      \
    }                                                                                          \
  }

ROPE(rope_split, i, i + half)
ROPE(rope_interleaved, 2 * i, 2 * i + 1)
