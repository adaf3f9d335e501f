// y = x W^T + b for a few rows x. Weights come from memory once, whatever the number of rows, and that is what takes
// the time; a row's sums are added in one order, whatever rows are beside it.
#pragma once
#include "lanes.h"

#if defined(__GNUC__)
#define LONGSTATE_FETCH(place) __builtin_prefetch(place)
#else
#define LONGSTATE_FETCH(place)
#endif

namespace {

constexpr int kFewHigh = 4;      // outputs that share the loads of x
constexpr int kFewWide = kHigh;  // rows that share the loads of W, as many as there are registers for

inline float total(vec x) {
  float lanes[kLanes], sum = 0.f;
  std::memcpy(lanes, &x, sizeof lanes);
#pragma omp simd reduction(+ : sum)
  for (int64_t l = 0; l < kLanes; l++) sum += lanes[l];
  return sum;
}

template <int high, int wide>
inline void few_rows_tile(int64_t inputs, const float* __restrict W, const float* __restrict b,
                          const float* __restrict x, int64_t x_stride, float* __restrict y, int64_t y_stride) {
  vec sum[high][wide];
  for (int i = 0; i < high; i++)
    for (int j = 0; j < wide; j++) sum[i][j] = zero();
  for (int64_t k = 0; k < inputs; k += kLanes) {
    const int64_t count = inputs - k < kLanes ? inputs - k : kLanes;
    vec row[wide];
    for (int j = 0; j < wide; j++) row[j] = load(x + j * x_stride + k, count);
    for (int i = 0; i < high; i++) {
      const float* weights = W + i * inputs + k;
      LONGSTATE_FETCH(weights + high * inputs);  // of the next tile
      const vec w = load(weights, count);
      for (int j = 0; j < wide; j++) sum[i][j] += w * row[j];
    }
  }
  for (int i = 0; i < high; i++)
    for (int j = 0; j < wide; j++) y[j * y_stride + i] = total(sum[i][j]) + (b ? b[i] : 0.f);
}

template <int high>
inline void few_rows_outputs(int64_t batch, int64_t inputs, const float* W, const float* b, const float* x,
                             int64_t x_stride, float* y, int64_t y_stride) {
  int64_t row = 0;
  for (; row + kFewWide <= batch; row += kFewWide)
    few_rows_tile<high, kFewWide>(inputs, W, b, x + row * x_stride, x_stride, y + row * y_stride, y_stride);
  for (; row < batch; row++)
    few_rows_tile<high, 1>(inputs, W, b, x + row * x_stride, x_stride, y + row * y_stride, y_stride);
}

// Outputs first .. last - 1 of every row, for W (outputs, inputs) and b (outputs) or null.
inline void few_rows(int64_t batch, int64_t inputs, int64_t first, int64_t last, const float* W, const float* b,
                     const float* x, int64_t x_stride, float* y, int64_t y_stride) {
  int64_t i = first;
  for (; i + kFewHigh <= last; i += kFewHigh)
    few_rows_outputs<kFewHigh>(batch, inputs, W + i * inputs, b ? b + i : nullptr, x, x_stride, y + i, y_stride);
  for (; i < last; i++)
    few_rows_outputs<1>(batch, inputs, W + i * inputs, b ? b + i : nullptr, x, x_stride, y + i, y_stride);
}

}  // namespace
