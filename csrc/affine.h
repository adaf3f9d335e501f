// y = W x + b for one vector: what a single step spends its time on when the maps are small.
#pragma once
#include <cstdint>

#include "lanes.h"

namespace {

// `rows` outputs at once: they share every load of x, and there are as many sums under way.
template <int rows>
inline void affine_rows(int64_t inputs, const float* __restrict W, const float* __restrict b, const float* __restrict x,
                        float* __restrict y) {
  vec sum[rows] = {};
  int64_t k = 0;
  for (; k + kLanes <= inputs; k += kLanes) {
    const vec shared = load(x + k, kLanes);
    for (int r = 0; r < rows; r++) sum[r] += load(W + r * inputs + k, kLanes) * shared;
  }
  float lanes[rows][kLanes];
  std::memcpy(lanes, sum, sizeof lanes);
  for (int r = 0; r < rows; r++) {
    float total = b ? b[r] : 0.f;
    for (int l = 0; l < kLanes; l++) total += lanes[r][l];
    for (int64_t left = k; left < inputs; left++) total += W[r * inputs + left] * x[left];
    y[r] = total;
  }
}

// W (outputs, inputs) with contiguous rows, b (outputs) or null.
inline void affine(int64_t outputs, int64_t inputs, const float* __restrict W, const float* __restrict b,
                   const float* __restrict x, float* __restrict y) {
  int64_t i = 0;
  for (; i + 8 <= outputs; i += 8) affine_rows<8>(inputs, W + i * inputs, b ? b + i : nullptr, x, y + i);
  for (; i < outputs; i++) affine_rows<1>(inputs, W + i * inputs, b ? b + i : nullptr, x, y + i);
}

}  // namespace
