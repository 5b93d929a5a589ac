// A sum over all threads of a block.
#pragma once

// The sum of `v` over the block, the same in every thread. `partials` holds 32 values of shared
// memory; the block is whole warps.
DEVICE float block_sum(float v, float* partials) {
  v = warp_sum(v);
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  if (warps == 1) return v;
  if (lane == 0) partials[warp] = v;
  __syncthreads();
  v = warp_sum(lane < warps ? partials[lane] : 0.0f);
  // Nobody writes the partials of the next sum before all have read these.
  __syncthreads();
  return v;
}
