// The factors of a chunk of a linear time-invariant system, forward and backward; compiled once for every instruction
// set.
//
//   taps_l = C A^l B (+ D),    rows_t = C A^{t+1},    columns_t = A^{T-1-t} B,    carry = A^T
//
// in double, for A = R or A = R + sum_k U_k V_k^T with R diagonal in complex numbers. Columns and rows are made one
// after the other, in N (1 + rank) operations each. No matrix is ever squared, since
//
//   A^T = R^T + sum_k sum_j (R^{T-1-j} U_k) (V_k^T A^j)
//
// is one product of two factors that are made the same way. Lanes are features: a task is a tile of kDoubles of them.
// The file is long because every step forward stands beside its way back.
#include <utility>

#include "lanes.h"
#include "longstate.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

namespace {

typedef VectorsOf<dvec> Doubles;
typedef MatrixOf<dvec> DoubleMatrix;

struct Tile {
  int64_t first, lanes;  // features first .. first + lanes - 1
};

// One number of each feature, `stride` apart in memory.
dvec gather(const double* from, int64_t stride, int64_t lanes) {
  double numbers[kDoubles] = {};
  for (int64_t q = 0; q < lanes; q++) numbers[q] = from[q * stride];
  dvec x;
  std::memcpy(&x, numbers, sizeof(dvec));
  return x;
}

void scatter(dvec x, double* to, int64_t stride, int64_t lanes) {
  double numbers[kDoubles];
  std::memcpy(numbers, &x, sizeof(dvec));
  for (int64_t q = 0; q < lanes; q++) to[q * stride] = numbers[q];
}

#if defined(_MSC_VER)
typedef float half;
#define CONVERT(x, to) static_cast<to>(x)
#else
typedef float half __attribute__((vector_size(kDoubles * sizeof(float))));
#define CONVERT(x, to) __builtin_convertvector(x, to)
#endif

// Float32 numbers that lie beside each other.
dvec widen(const float* from, int64_t lanes) {
  half x = {};
  if (lanes == kDoubles)
    std::memcpy(&x, from, sizeof(half));
  else
    std::memcpy(&x, from, lanes * sizeof(float));
  return CONVERT(x, dvec);
}

void narrow(dvec wide, float* to, int64_t lanes) {
  const half x = CONVERT(wide, half);
  if (lanes == kDoubles)
    std::memcpy(to, &x, sizeof(half));
  else
    std::memcpy(to, &x, lanes * sizeof(float));
}

// In four parts: one sum would wait for itself at every step.
dvec dot(const dvec* a, const dvec* b, int64_t count) {
  dvec sum[4] = {};
  int64_t n = 0;
  for (; n + 4 <= count; n += 4)
    for (int q = 0; q < 4; q++) sum[q] += a[n + q] * b[n + q];
  for (; n < count; n++) sum[0] += a[n] * b[n];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

void add_scaled(dvec* to, const dvec* x, dvec by, int64_t count) {
  for (int64_t n = 0; n < count; n++) to[n] += by * x[n];
}

void copy(dvec* to, const dvec* from, int64_t count) {
  std::memcpy(static_cast<void*>(to), from, count * sizeof(dvec));
}

// The systems of a tile, or the gradients by them.
struct System {
  const int64_t states, modes, step, shift, ranks;  // the real part of mode n at step n, the imaginary `shift` after it
  Doubles re, im, left, right, B, C;

  explicit System(const LTIFactors& p)
      : states(p.states), modes(p.kind == kReal ? p.states : p.states / 2), step(p.kind == kComplex ? 2 : 1),
        shift(p.kind == kReal ? 0 : p.kind == kComplex ? 1 : p.states / 2), ranks(p.kind == kDense ? p.rank : 0),
        re(modes), im(modes), left(ranks * states), right(ranks * states), B(states), C(p.channels * states) {}

  dvec* left_of(int64_t k) const { return left.at(k * states); }
  dvec* right_of(int64_t k) const { return right.at(k * states); }
  dvec* C_of(int64_t c) const { return C.at(c * states); }

  // Rows of complex systems are kept as the real rows they are: y = re(C) re(s) - im(C) im(s).
  double sign(const LTIFactors& p, int64_t n) const { return p.kind == kComplex && n % 2 ? -1.0 : 1.0; }

  void read(const LTIFactors& p, const Tile& at) {
    const int64_t N = states, H = p.features, pairs = shift ? 2 : 1;
    const double* A = p.A + at.first * N;
    for (int64_t n = 0; n < modes; n++) {
      *re.at(n) = gather(A + pairs * n, N, at.lanes);
      if (shift) *im.at(n) = gather(A + pairs * n + 1, N, at.lanes);
    }
    for (int64_t n = 0; n < N; n++) {
      for (int64_t k = 0; k < ranks; k++) {
        left_of(k)[n] = gather(p.left + (k * H + at.first) * N + n, N, at.lanes);
        right_of(k)[n] = gather(p.right + (k * H + at.first) * N + n, N, at.lanes);
      }
      *B.at(n) = gather(p.B + at.first * N + n, N, at.lanes);
      for (int64_t c = 0; c < p.channels; c++)
        C_of(c)[n] = sign(p, n) * gather(p.C + (c * H + at.first) * N + n, N, at.lanes);
    }
  }
  void write(const LTIFactors& p, const Tile& at) const {
    const int64_t N = states, H = p.features, pairs = shift ? 2 : 1;
    double* A = p.grad_A + at.first * N;
    for (int64_t n = 0; n < modes; n++) {
      scatter(*re.at(n), A + pairs * n, N, at.lanes);
      if (shift) scatter(*im.at(n), A + pairs * n + 1, N, at.lanes);
    }
    for (int64_t n = 0; n < N; n++) {
      for (int64_t k = 0; k < ranks; k++) {
        scatter(left_of(k)[n], p.grad_left + (k * H + at.first) * N + n, N, at.lanes);
        scatter(right_of(k)[n], p.grad_right + (k * H + at.first) * N + n, N, at.lanes);
      }
      scatter(*B.at(n), p.grad_B + at.first * N + n, N, at.lanes);
      for (int64_t c = 0; c < p.channels; c++)
        scatter(sign(p, n) * C_of(c)[n], p.grad_C + (c * H + at.first) * N + n, N, at.lanes);
    }
  }
  void clear() {
    re.clear();
    im.clear();
    left.clear();
    right.clear();
    B.clear();
    C.clear();
  }

  // to = R x, or R^T x; they may be one.
  void rotate(const dvec* x, dvec* to, bool transposed) const {
    if (!shift) {
      for (int64_t n = 0; n < modes; n++) to[n] = *re.at(n) * x[n];
      return;
    }
    const double turn = transposed ? -1.0 : 1.0;
    for (int64_t n = 0; n < modes; n++) {
      const dvec r = *re.at(n), i = turn * *im.at(n), a = x[n * step], b = x[n * step + shift];
      to[n * step] = r * a - i * b;
      to[n * step + shift] = r * b + i * a;
    }
  }

  // to = A x, or A^T x for rows.
  void advance(const dvec* x, dvec* to, bool is_row) const {
    rotate(x, to, is_row);
    for (int64_t k = 0; k < ranks; k++) {
      const dvec amount = dot(is_row ? left_of(k) : right_of(k), x, states);
      add_scaled(to, is_row ? right_of(k) : left_of(k), amount, states);
    }
  }

  // With g the gradient by to = R x (R^T x): by x, in its place, and what it adds to the gradient by R.
  void rotate_back(const dvec* x, dvec* g, bool transposed, System& slope) const {
    for (int64_t n = 0; n < modes; n++) {
      if (shift) {
        const dvec a = x[n * step], b = x[n * step + shift], c = g[n * step], d = g[n * step + shift];
        const dvec turned = a * d - b * c;
        *slope.re.at(n) += a * c + b * d;
        *slope.im.at(n) += transposed ? -turned : turned;
      } else {
        *slope.re.at(n) += x[n] * g[n];
      }
    }
    rotate(g, g, !transposed);
  }

  // The same of `advance`; `old` is memory for one vector.
  void advance_back(const dvec* x, dvec* g, bool is_row, System& slope, dvec* old) const {
    if (ranks) copy(old, g, states);
    rotate_back(x, g, is_row, slope);
    for (int64_t k = 0; k < ranks; k++) {
      const dvec *from = is_row ? left_of(k) : right_of(k), *to = is_row ? right_of(k) : left_of(k);
      dvec *by_from = is_row ? slope.left_of(k) : slope.right_of(k);
      dvec *by_to = is_row ? slope.right_of(k) : slope.left_of(k);
      const dvec asked = dot(to, old, states), amount = dot(from, x, states);
      add_scaled(g, from, asked, states);
      add_scaled(by_from, x, asked, states);
      add_scaled(by_to, old, amount, states);
    }
  }
};

// Vectors one after the other. They are one number longer than they need be: those that lie a power of two apart would
// share a few places of the first-level cache.
class Sequence {
 public:
  const int64_t count, width;
  Sequence(int64_t count, int64_t width) : count(count), width(width), down_(width + 1), all_(count * down_) {}
  dvec* row(int64_t i) const { return all_.at(i * down_); }
  void clear() { all_.clear(); }
  DoubleMatrix matrix() const { return {row(0), down_, 1}; }
  DoubleMatrix transposed() const { return {row(0), 1, down_}; }

 private:
  int64_t down_;
  Doubles all_;
};

struct Work {
  System system;
  Sequence vectors, turned, driven, carry;  // columns or rows; R^i U_k; V_k^T A^{T-1-i}; a matrix (states, states)
  Doubles power, old;

  explicit Work(const LTIFactors& p)
      : system(p), vectors(p.chunk + 1, p.states), turned(system.ranks * p.chunk, p.states),
        driven(system.ranks * p.chunk, p.states), carry(p.kind == kDense ? p.states : 0, p.states),
        power(2 * system.modes), old(p.states) {}
};

// R^n, as numbers re and im.
void raise(const System& s, int64_t n, dvec* re, dvec* im) {
  for (int64_t m = 0; m < s.modes; m++) {
    dvec a = dvec{} + 1.0, b = dvec{};
    const dvec r = *s.re.at(m), i = s.shift ? *s.im.at(m) : dvec{};
    for (int64_t l = 0; l < n; l++) {
      const dvec next = a * r - b * i;
      b = a * i + b * r;
      a = next;
    }
    re[m] = a;
    im[m] = b;
  }
}

// The two factors of A^T - R^T.
void factor_carry(const System& s, int64_t T, Sequence& turned, Sequence& driven) {
  for (int64_t k = 0; k < s.ranks; k++) {
    const int64_t begin = k * T;
    copy(turned.row(begin), s.left_of(k), s.states);
    copy(driven.row(begin + T - 1), s.right_of(k), s.states);
    for (int64_t i = 1; i < T; i++) {
      s.rotate(turned.row(begin + i - 1), turned.row(begin + i), false);
      s.advance(driven.row(begin + T - i), driven.row(begin + T - 1 - i), true);
    }
  }
}

void forward_tile(const LTIFactors& p, const Tile& at, Work& w) {
  const int64_t T = p.chunk, N = p.states, H = p.features;
  w.system.read(p, at);
  const System& s = w.system;
  dvec* x = w.vectors.row(0);
  dvec* next = w.vectors.row(1);
  copy(x, s.B.at(0), N);
  for (int64_t l = 0; l < T; l++) {
    for (int64_t n = 0; n < N; n++) narrow(x[n], p.columns + ((T - 1 - l) * N + n) * H + at.first, at.lanes);
    for (int64_t c = 0; c < p.channels; c++) {
      dvec tap = dot(s.C_of(c), x, N);
      if (l == 0) tap += gather(p.D + c * H + at.first, 1, at.lanes);
      narrow(tap, p.taps + (c * T + l) * H + at.first, at.lanes);
    }
    s.advance(x, next, false);
    std::swap(x, next);
  }
  for (int64_t c = 0; c < p.channels; c++) {
    copy(x, s.C_of(c), N);
    for (int64_t t = 0; t < T; t++) {
      s.advance(x, next, true);
      std::swap(x, next);
      for (int64_t n = 0; n < N; n++) narrow(x[n], p.rows + ((c * T + t) * N + n) * H + at.first, at.lanes);
    }
  }
  dvec *re = w.power.at(0), *im = w.power.at(s.modes);
  raise(s, T, re, im);
  if (p.kind != kDense) {
    for (int64_t n = 0; n < s.modes; n++) {
      narrow(re[n], p.carry + n * s.step * H + at.first, at.lanes);
      if (s.shift) narrow(im[n], p.carry + (n * s.step + s.shift) * H + at.first, at.lanes);
    }
    return;
  }
  w.carry.clear();
  for (int64_t n = 0, m = s.modes; n < s.modes; n++, m++) {
    w.carry.row(n)[n] = w.carry.row(m)[m] = re[n];
    w.carry.row(n)[m] = -im[n];
    w.carry.row(m)[n] = im[n];
  }
  factor_carry(s, T, w.turned, w.driven);
  add_product(w.turned.transposed(), w.driven.matrix(), w.carry.matrix(), N, s.ranks * T, N);
  for (int64_t i = 0; i < N; i++)
    for (int64_t j = 0; j < N; j++) narrow(w.carry.row(i)[j], p.carry + (i * N + j) * H + at.first, at.lanes);
}

struct BackwardWork : Work {
  System slope;
  Sequence turned_slope, driven_slope;
  Doubles g;

  explicit BackwardWork(const LTIFactors& p)
      : Work(p), slope(p), turned_slope(turned.count, p.states), driven_slope(turned.count, p.states), g(p.states) {}
};

// From the gradient by A^T.
void carry_back(const LTIFactors& p, const Tile& at, BackwardWork& w) {
  const int64_t T = p.chunk, N = p.states, H = p.features;
  const System& s = w.system;
  dvec *re = w.power.at(0), *im = w.power.at(s.modes);
  raise(s, T - 1, re, im);
  for (int64_t i = 0; i < w.carry.count; i++)
    for (int64_t j = 0; j < N; j++) w.carry.row(i)[j] = widen(p.grad_carry + (i * N + j) * H + at.first, at.lanes);
  for (int64_t n = 0, m = s.modes; n < s.modes; n++, m++) {
    dvec a, b = dvec{};
    if (p.kind == kDense) {
      a = w.carry.row(n)[n] + w.carry.row(m)[m];
      b = w.carry.row(m)[n] - w.carry.row(n)[m];
    } else {
      a = widen(p.grad_carry + n * s.step * H + at.first, at.lanes);
      if (s.shift) b = widen(p.grad_carry + (n * s.step + s.shift) * H + at.first, at.lanes);
    }
    const double times = static_cast<double>(T);
    *w.slope.re.at(n) += times * (re[n] * a + im[n] * b);
    *w.slope.im.at(n) += times * (re[n] * b - im[n] * a);
  }
  if (!s.ranks) return;
  factor_carry(s, T, w.turned, w.driven);
  w.turned_slope.clear();
  w.driven_slope.clear();
  add_product(w.driven.matrix(), w.carry.transposed(), w.turned_slope.matrix(), s.ranks * T, N, N);
  add_product(w.turned.matrix(), w.carry.matrix(), w.driven_slope.matrix(), s.ranks * T, N, N);
  dvec* g = w.g.at(0);
  for (int64_t k = 0; k < s.ranks; k++) {
    const int64_t begin = k * T;
    w.g.clear();
    for (int64_t i = T - 1; i >= 0; i--) {
      add_scaled(g, w.turned_slope.row(begin + i), dvec{} + 1.0, N);
      if (i) s.rotate_back(w.turned.row(begin + i - 1), g, false, w.slope);
    }
    add_scaled(w.slope.left_of(k), g, dvec{} + 1.0, N);
    w.g.clear();
    for (int64_t i = 0; i < T; i++) {
      add_scaled(g, w.driven_slope.row(begin + i), dvec{} + 1.0, N);
      if (i + 1 < T) s.advance_back(w.driven.row(begin + i + 1), g, true, w.slope, w.old.at(0));
    }
    add_scaled(w.slope.right_of(k), g, dvec{} + 1.0, N);
  }
}

void backward_tile(const LTIFactors& p, const Tile& at, BackwardWork& w) {
  const int64_t T = p.chunk, N = p.states, H = p.features;
  w.system.read(p, at);
  w.slope.clear();
  const System& s = w.system;
  dvec* g = w.g.at(0);
  copy(w.vectors.row(0), s.B.at(0), N);
  for (int64_t l = 1; l < T; l++) s.advance(w.vectors.row(l - 1), w.vectors.row(l), false);
  w.g.clear();
  for (int64_t l = T - 1; l >= 0; l--) {
    for (int64_t n = 0; n < N; n++) g[n] += widen(p.grad_columns + ((T - 1 - l) * N + n) * H + at.first, at.lanes);
    for (int64_t c = 0; c < p.channels; c++) {
      const dvec tap = widen(p.grad_taps + (c * T + l) * H + at.first, at.lanes);
      add_scaled(g, s.C_of(c), tap, N);
      add_scaled(w.slope.C_of(c), w.vectors.row(l), tap, N);
      if (l == 0) scatter(tap, p.grad_D + c * H + at.first, 1, at.lanes);
    }
    if (l) s.advance_back(w.vectors.row(l - 1), g, false, w.slope, w.old.at(0));
  }
  copy(w.slope.B.at(0), g, N);
  for (int64_t c = 0; c < p.channels; c++) {
    copy(w.vectors.row(0), s.C_of(c), N);
    for (int64_t t = 1; t < T; t++) s.advance(w.vectors.row(t - 1), w.vectors.row(t), true);
    w.g.clear();
    for (int64_t t = T - 1; t >= 0; t--) {
      for (int64_t n = 0; n < N; n++) g[n] += widen(p.grad_rows + ((c * T + t) * N + n) * H + at.first, at.lanes);
      s.advance_back(w.vectors.row(t), g, true, w.slope, w.old.at(0));
    }
    add_scaled(w.slope.C_of(c), g, dvec{} + 1.0, N);
  }
  carry_back(p, at, w);
  w.slope.write(p, at);
}

Tile tile_of(const LTIFactors& p, int64_t task) {
  const int64_t first = task * kDoubles, left = p.features - first;
  return {first, left < kDoubles ? left : kDoubles};
}

}  // namespace

extern "C" {

int64_t JOIN(longstate_doubles_, ISA)() { return kDoubles; }

// A task is a tile of features.
void JOIN(longstate_lti_factors_forward_, ISA)(const LTIFactors* p, int64_t begin, int64_t end) {
  Work work(*p);
  for (int64_t task = begin; task < end; task++) forward_tile(*p, tile_of(*p, task), work);
}

void JOIN(longstate_lti_factors_backward_, ISA)(const LTIFactors* p, int64_t begin, int64_t end) {
  BackwardWork work(*p);
  for (int64_t task = begin; task < end; task++) backward_tile(*p, tile_of(*p, task), work);
}
}
