// Vectors over lanes that lie beside each other in memory, as wide as the instruction set of this variant; and matrix
// products of such vectors, one product a lane.
#pragma once
#include <cstdint>
#include <cstring>
#include <new>

namespace {

#if defined(_MSC_VER)
constexpr int64_t kLanes = 1, kDoubles = 1;
typedef float vec;
typedef double dvec;
#else
#if defined(__AVX512F__)
constexpr int64_t kLanes = 16;
#elif defined(__AVX2__)
constexpr int64_t kLanes = 8;
#else
constexpr int64_t kLanes = 4;
#endif
constexpr int64_t kDoubles = kLanes / 2;
typedef float vec __attribute__((vector_size(kLanes * sizeof(float))));
typedef double dvec __attribute__((vector_size(kDoubles * sizeof(double))));
#endif

// The results that a product keeps in registers: kHigh x kWide, of 32 registers or of 16.
#if defined(__AVX512F__)
constexpr int kHigh = 4, kWide = 4;
#else
constexpr int kHigh = 2, kWide = 4;
#endif

inline vec zero() { return vec{}; }

// `count` of the lanes at `from`, zeros in the others.
inline vec load(const float* from, int64_t count) {
  vec x = zero();
  if (count == kLanes)
    std::memcpy(&x, from, sizeof(vec));
  else
    std::memcpy(&x, from, count * sizeof(float));
  return x;
}

inline void store(vec x, float* to, int64_t count) {
  if (count == kLanes)
    std::memcpy(to, &x, sizeof(vec));
  else
    std::memcpy(to, &x, count * sizeof(float));
}

// Zeros, aligned for vectors.
template <class V>
class VectorsOf {
 public:
  explicit VectorsOf(int64_t count) : bytes_(count * sizeof(V)) {
    data_ = static_cast<V*>(::operator new(bytes_, std::align_val_t(64)));
    clear();
  }
  ~VectorsOf() { ::operator delete(data_, std::align_val_t(64)); }
  VectorsOf(const VectorsOf&) = delete;
  VectorsOf& operator=(const VectorsOf&) = delete;
  void clear() { std::memset(static_cast<void*>(data_), 0, bytes_); }
  V* at(int64_t place) const { return data_ + place; }

 private:
  int64_t bytes_;
  V* data_;
};
typedef VectorsOf<vec> Vectors;

// A matrix of vectors anywhere in memory.
template <class V>
struct MatrixOf {
  V* data;
  int64_t down, across;  // steps from row to row, from column to column
  V* at(int64_t i, int64_t j) const { return data + i * down + j * across; }
};
typedef MatrixOf<vec> Matrix;

// The range of the inner index that a product needs for the result's columns j .. j + kWide - 1.
enum class Inner { all, until_column, from_column };

template <int high, int wide, bool fresh, class V>
inline void product_tile(const MatrixOf<V>& a, const MatrixOf<V>& b, const MatrixOf<V>& c, int64_t i, int64_t j,
                         int64_t first, int64_t last) {
  V sum[high][wide];
  for (int p = 0; p < high; p++)
    for (int q = 0; q < wide; q++) sum[p][q] = fresh ? V{} : *c.at(i + p, j + q);
  const V *left = a.at(i, first), *right = b.at(first, j);
  for (int64_t k = first; k < last; k++, left += a.across, right += b.down) {
    V row[wide];
    for (int q = 0; q < wide; q++) row[q] = right[q * b.across];
    for (int p = 0; p < high; p++) {
      const V x = left[p * a.down];
      for (int q = 0; q < wide; q++) sum[p][q] += x * row[q];
    }
  }
  for (int p = 0; p < high; p++)
    for (int q = 0; q < wide; q++) *c.at(i + p, j + q) = sum[p][q];
}

template <int wide, bool fresh, class V>
inline void product_columns(const MatrixOf<V>& a, const MatrixOf<V>& b, const MatrixOf<V>& c, int64_t rows,
                            int64_t inner, int64_t j, Inner range) {
  const int64_t first = range == Inner::from_column ? j : 0;
  const int64_t last = range == Inner::until_column && j + wide < inner ? j + wide : inner;
  int64_t i = 0;
  for (; i + kHigh <= rows; i += kHigh) product_tile<kHigh, wide, fresh>(a, b, c, i, j, first, last);
  for (; i < rows; i++) product_tile<1, wide, fresh>(a, b, c, i, j, first, last);
}

template <bool fresh, class V>
inline void all_of_product(const MatrixOf<V>& a, const MatrixOf<V>& b, const MatrixOf<V>& c, int64_t rows,
                           int64_t inner, int64_t columns, Inner range) {
  int64_t j = 0;
  for (; j + kWide <= columns; j += kWide) product_columns<kWide, fresh>(a, b, c, rows, inner, j, range);
  for (; j < columns; j++) product_columns<1, fresh>(a, b, c, rows, inner, j, range);
}

// c += a b in every lane, for a (rows, inner), b (inner, columns).
template <class V>
inline void add_product(const MatrixOf<V>& a, const MatrixOf<V>& b, const MatrixOf<V>& c, int64_t rows,
                        int64_t inner, int64_t columns, Inner range = Inner::all) {
  all_of_product<false>(a, b, c, rows, inner, columns, range);
}

// c = a b.
template <class V>
inline void product(const MatrixOf<V>& a, const MatrixOf<V>& b, const MatrixOf<V>& c, int64_t rows, int64_t inner,
                    int64_t columns, Inner range = Inner::all) {
  all_of_product<true>(a, b, c, rows, inner, columns, range);
}

}  // namespace
