// Rotary position embedding, in place: a warp a head of a token, after the norm of the head where there
// is one. Two inputs, such as queries and keys, in one launch.
#include "ptx.cuh"

struct Input {
  float* x;           // [T, heads, head_dim]
  const float* norm;  // [head_dim], or null
  int heads;
};

// Sum over a head of the squares of its values.
DEVICE float squares(const float* head, int head_dim) {
  float sum = 0.0f;
  for (int i = threadIdx.x % 32; i < head_dim; i += 32) sum += head[i] * head[i];
  return warp_sum(sum);
}

// This warp's head; `PAIR`: how far apart the values of a pair are, or 0 for half of those that are
// rotated. `table`: [positions, rotary_dim / 2] of cosine and sine.
template <int PAIR>
DEVICE void rope(const Input& first, const Input& second, const float2* table,
                 const int* positions, int head_dim, int rotary_dim, float eps) {
  int index = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (index >= first.heads + second.heads) return;
  bool of_first = index < first.heads;
  int heads = of_first ? first.heads : second.heads;
  if (!of_first) index -= first.heads;
  float* head = of_first ? first.x : second.x;
  head += ((u64)blockIdx.x * heads + index) * head_dim;
  const float* weight = of_first ? first.norm : second.norm;
  float scale = 1.0f;
  if (weight != nullptr) scale = 1.0f / sqrtf(squares(head, head_dim) / head_dim + eps);
  int half = rotary_dim / 2;
  const float2* angles = table + (u64)positions[blockIdx.x] * half;
  for (int i = lane; i < half; i += 32) {
    int a = PAIR == 0 ? i : 2 * i, b = PAIR == 0 ? i + half : 2 * i + PAIR;
    float x = head[a], y = head[b];
    if (weight != nullptr) x = x * scale * weight[a], y = y * scale * weight[b];
    float2 angle = angles[i];
    head[a] = x * angle.x - y * angle.y;
    head[b] = x * angle.y + y * angle.x;
  }
  if (weight == nullptr) return;
  for (int i = rotary_dim + lane; i < head_dim; i += 32) head[i] = head[i] * scale * weight[i];
}

#define ROPE(name, pair)                                                                          \
  KERNEL(name, 256,                                                                               \
         (float* x0, const float* norm0, int heads0, float* x1, const float* norm1, int heads1,   \
          const float2* table, const int* positions, int head_dim, int rotary_dim, float eps)) {  \
    rope<pair>({x0, norm0, heads0}, {x1, norm1, heads1}, table, positions, head_dim, rotary_dim,  \
               eps);                                                                              \
  }
ROPE(rope_split, 0)
ROPE(rope_interleaved, 1)
