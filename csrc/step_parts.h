// What the compiled steps of layers share: norms, the short convolution, and the residual branch around a layer.
#pragma once
#include <cmath>

#include "fastmath.h"
#include "longstate.h"

namespace {

// y may be x.
inline void normalise(int64_t size, float eps, const float* weight, const float* x, float* y) {
  float sum = 0.f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < size; i++) sum += x[i] * x[i];
  const float scale = 1.f / std::sqrt(sum / size + eps);
  if (weight)
    for (int64_t i = 0; i < size; i++) y[i] = x[i] * scale * weight[i];
  else
    for (int64_t i = 0; i < size; i++) y[i] = x[i] * scale;
}

// Step: MambaStep or Mamba2Step.
template <class Step>
void begin_branch(const Step& p, int64_t first, int64_t last, float* normal) {
  for (int64_t row = first; row < last; row++)
    normalise(p.width, p.norm_eps, p.norm, p.x + row * p.width, normal + row * p.width);
}

template <class Step>
void end_branch(const Step& p, int64_t first, int64_t last) {
  if (!p.branch) return;
  for (int64_t row = 0; row < p.batch; row++)
    for (int64_t i = row * p.width + first; i < row * p.width + last; i++) p.y[i] = p.x[i] + p.scale * p.y[i];
}

// Channels first .. last - 1 of E.
inline void convolve(int64_t first, int64_t last, int64_t E, int64_t taps, const float* __restrict weight,
                     const float* __restrict bias, const float* __restrict x, const float* __restrict tail,
                     float* __restrict y, float* __restrict next) {
  const int64_t old = taps - 1;
  for (int64_t e = first; e < last; e++) y[e] = (bias ? bias[e] : 0.f) + weight[e * taps + old] * x[e];
  for (int64_t k = 0; k < old; k++) {
    const float *before = tail + k * E, *after = k + 1 < old ? before + E : x;
    for (int64_t e = first; e < last; e++) {
      y[e] += weight[e * taps + k] * before[e];
      next[k * E + e] = after[e];
    }
  }
}

inline void activate(int64_t first, int64_t last, float* __restrict y) {
  for (int64_t e = first; e < last; e++) y[e] *= fast_sigmoid(y[e]);
}

}  // namespace
