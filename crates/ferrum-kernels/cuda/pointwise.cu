// Non-linearities on their own: a thread a value.
#include "ptx.cuh"
#include "activation.cuh"

// x[i] = act(x[i])
KERNEL(activate, 256, (float* x, int count, int which)) {
  i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) x[i] = activation(x[i], which);
}

// x[i] = act(x[i]) * up[i]
KERNEL(gate, 256, (float* x, const float* up, int count, int which)) {
  i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) x[i] = activation(x[i], which) * up[i];
}
