// y = W x + b for one vector: what a single step spends its time on when the maps are small.
#pragma once
#include <cstdint>

namespace {

// W (outputs, inputs) with contiguous rows, b (outputs) or null. Four rows at once share every load of x.
inline void affine(int64_t outputs, int64_t inputs, const float* __restrict W, const float* __restrict b,
                   const float* __restrict x, float* __restrict y) {
  int64_t i = 0;
  for (; i + 4 <= outputs; i += 4) {
    const float *w0 = W + i * inputs, *w1 = w0 + inputs, *w2 = w1 + inputs, *w3 = w2 + inputs;
    float s0 = 0.f, s1 = 0.f, s2 = 0.f, s3 = 0.f;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (int64_t k = 0; k < inputs; k++) {
      s0 += w0[k] * x[k];
      s1 += w1[k] * x[k];
      s2 += w2[k] * x[k];
      s3 += w3[k] * x[k];
    }
    y[i] = s0 + (b ? b[i] : 0.f);
    y[i + 1] = s1 + (b ? b[i + 1] : 0.f);
    y[i + 2] = s2 + (b ? b[i + 2] : 0.f);
    y[i + 3] = s3 + (b ? b[i + 3] : 0.f);
  }
  for (; i < outputs; i++) {
    float sum = 0.f;
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < inputs; k++) sum += W[i * inputs + k] * x[k];
    y[i] = sum + (b ? b[i] : 0.f);
  }
}

}  // namespace
