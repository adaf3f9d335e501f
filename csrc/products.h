// Rows of floats; and products and transposes of small matrices in the first two caches, whose rows are vectors.
#pragma once
#include <utility>

#include "lanes.h"

namespace {

// A matrix of floats anywhere in memory.
struct Floats {
  float* data;
  int64_t down, across;  // steps from row to row, from column to column
  float* at(int64_t i, int64_t j) const { return data + i * down + j * across; }
  Floats from(int64_t i, int64_t j) const { return {at(i, j), down, across}; }
  Floats transposed() const { return {data, across, down}; }
};

inline vec read(const float* from) {
  vec x;
  std::memcpy(&x, from, sizeof(vec));
  return x;
}
inline void write(vec x, float* to) { std::memcpy(to, &x, sizeof(vec)); }

inline int64_t whole_vectors(int64_t count) { return (count + kLanes - 1) / kLanes; }

// Rows of whole vectors in memory of our own: `columns` rounded up, what is more being zero until it is written.
class Panel {
 public:
  Panel(int64_t rows, int64_t columns)
      : width_(whole_vectors(columns) * kLanes), all_(rows * whole_vectors(columns)) {}
  float* row(int64_t i) const { return reinterpret_cast<float*>(all_.at(0)) + i * width_; }
  int64_t width() const { return width_; }
  int64_t vectors() const { return width_ / kLanes; }
  Floats all() const { return {row(0), width_, 1}; }
  void clear() { all_.clear(); }

 private:
  int64_t width_;
  Vectors all_;
};

inline void copy(const float* from, int64_t count, float* to) { std::memcpy(to, from, count * sizeof(float)); }
inline void clear(float* to, int64_t count) { std::memset(to, 0, count * sizeof(float)); }

// `to` may be `from`.
inline void scale(const float* from, float factor, int64_t count, float* to) {
#pragma omp simd
  for (int64_t k = 0; k < count; k++) to[k] = factor * from[k];
}

inline void scale_by(const float* from, const float* factors, int64_t count, float* to) {
#pragma omp simd
  for (int64_t k = 0; k < count; k++) to[k] = factors[k] * from[k];
}

inline void add_scaled_by(const float* from, const float* factors, int64_t count, float* to) {
#pragma omp simd
  for (int64_t k = 0; k < count; k++) to[k] += factors[k] * from[k];
}

inline void add_to(const float* from, int64_t count, float* to) {
#pragma omp simd
  for (int64_t k = 0; k < count; k++) to[k] += from[k];
}

inline float dot(const float* a, const float* b, int64_t count) {
  float sum = 0.f;
#pragma omp simd reduction(+ : sum)
  for (int64_t k = 0; k < count; k++) sum += a[k] * b[k];
  return sum;
}

template <int high, int wide>
inline void tile_of_product(const Floats& a, const Floats& b, const Floats& c, int64_t i, int64_t j, int64_t inner) {
  vec sum[high][wide];
  for (int p = 0; p < high; p++)
    for (int q = 0; q < wide; q++) sum[p][q] = read(c.at(i + p, j + q * kLanes));
  const float *left = a.at(i, 0), *right = b.at(0, j);
  for (int64_t k = 0; k < inner; k++, left += a.across, right += b.down) {
    vec row[wide];
    for (int q = 0; q < wide; q++) row[q] = read(right + q * kLanes);
    for (int p = 0; p < high; p++) {
      const float x = left[p * a.down];
      for (int q = 0; q < wide; q++) sum[p][q] += x * row[q];
    }
  }
  for (int p = 0; p < high; p++)
    for (int q = 0; q < wide; q++) write(sum[p][q], c.at(i + p, j + q * kLanes));
}

template <int wide>
inline void columns_of_product(const Floats& a, const Floats& b, const Floats& c, int64_t rows, int64_t inner,
                               int64_t j) {
  int64_t i = 0;
  for (; i + kHigh <= rows; i += kHigh) tile_of_product<kHigh, wide>(a, b, c, i, j, inner);
  for (; i < rows; i++) tile_of_product<1, wide>(a, b, c, i, j, inner);
}

// c += a b, for a (rows, inner) with any steps, and b and c with rows of `vectors` vectors.
inline void multiply(const Floats& a, const Floats& b, const Floats& c, int64_t rows, int64_t inner, int64_t vectors) {
  int64_t j = 0;
  for (; j + kWide <= vectors; j += kWide) columns_of_product<kWide>(a, b, c, rows, inner, j * kLanes);
  for (; j < vectors; j++) columns_of_product<1>(a, b, c, rows, inner, j * kLanes);
}

#if !defined(_MSC_VER)
typedef int32_t places __attribute__((vector_size(kLanes * sizeof(float))));

// Where lane i of the two results of a 2 x 2 transpose of blocks of `half` lanes comes from, b standing behind a.
constexpr int32_t upper_place(int32_t half, int32_t i) { return i & half ? kLanes + (i ^ half) : i; }
constexpr int32_t lower_place(int32_t half, int32_t i) { return i & half ? kLanes + i : i ^ half; }

template <int32_t half, std::size_t... i>
inline void exchange(vec& a, vec& b, std::index_sequence<i...>) {
#if defined(__clang__)
  const vec up = __builtin_shufflevector(a, b, upper_place(half, i)...);
  b = __builtin_shufflevector(a, b, lower_place(half, i)...);
#else
  const vec up = __builtin_shuffle(a, b, places{upper_place(half, i)...});
  b = __builtin_shuffle(a, b, places{lower_place(half, i)...});
#endif
  a = up;
}

template <int32_t half>
inline void exchange_all(vec* rows) {
  if constexpr (half < kLanes) {
#pragma GCC unroll 16
    for (int32_t r = 0; r < kLanes; r++)
      if (!(r & half)) exchange<half>(rows[r], rows[r + half], std::make_index_sequence<kLanes>());
    exchange_all<2 * half>(rows);
  }
}
#else
template <int half>
inline void exchange_all(vec*) {}
#endif

// to = the transpose of `from`, in whole squares of kLanes x kLanes: both have room for them.
inline void transpose(const Floats& from, const Floats& to, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; i += kLanes)
    for (int64_t j = 0; j < columns; j += kLanes) {
      vec square[kLanes];
      for (int64_t r = 0; r < kLanes; r++) square[r] = read(from.at(i + r, j));
      exchange_all<1>(square);
      for (int64_t r = 0; r < kLanes; r++) write(square[r], to.at(j + r, i));
    }
}

}  // namespace
