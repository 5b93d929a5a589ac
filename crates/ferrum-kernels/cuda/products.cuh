// The product of a group of a quantised weight with a group of activations.
#pragma once
#include "activations.cuh"
#include "formats.cuh"

// From the sums of products of codes (`dots[0]` over 32 columns, or one for each 16 of them) and
// the sums of the activations: the product in units of the activations' scale.
template <class F>
DEVICE float group_product(const Scales<F::HALVES>& s, const int* dots, u32 sums) {
  int a = first_sum(sums), b = second_sum(sums);
  if (F::HALVES == 1) {
    float product = s.scale[0] * (float)(dots[0] - s.zero * (a + b));
    return F::MINIMA ? product + s.min[0] * (float)(a + b) : product;
  }
  float product = s.scale[0] * (float)(dots[0] - s.zero * a) +
                  s.scale[F::HALVES - 1] * (float)(dots[1] - s.zero * b);
  if (!F::MINIMA) return product;
  return product + (s.min[0] * (float)a + s.min[F::HALVES - 1] * (float)b);
}
