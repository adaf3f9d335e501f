// A linear recurrence, forward and backward; compiled once for every instruction set (ISA names it).
//
//   h_t = a_t h_{t-1} + b_t
//
// Number by number; or for pairs, multiplied as complex numbers or by 2 x 2 matrices. A task is a tile of channels of
// one row of the batch: one pass over time, with the state of the tile, and a transition that all elements share, as
// planes of double in the first-level cache. In double a long memory does not round away, at the price of arithmetic
// that waits for the memory anyway. The backward pass is the same recurrence from the end,
//
//   g_t = dh_t + a*_{t+1} g_{t+1},  db_t = g_t,  da_t = g_t h*_{t-1}
//
// which reads h and computes nothing again. Sequences are not cut: two passes over parts of one cost two threads as
// much as one pass costs one.
#include <algorithm>
#include <cstring>

#include "longstate.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

namespace {

constexpr int64_t kTile = 64;

template <Carry kind>
constexpr int kState = kind == kReal ? 1 : 2;  // numbers of a channel's state
template <Carry kind>
constexpr int kPlanes = kind == kReal ? 1 : kind == kComplex ? 2 : 4;  // and of its transition

struct Place {
  int64_t row, first, lanes;  // channels first .. first + lanes - 1
};

Place place_of(const LinearScan& p, int64_t task) {
  const int64_t tiles = (p.channels + kTile - 1) / kTile, first = task % tiles * kTile;
  return {task / tiles, first, std::min(kTile, p.channels - first)};
}

int64_t length_of(const LinearScan& p, const Place& at) { return p.lengths ? p.lengths[at.row] : p.length; }

bool is_start(const LinearScan& p, const Place& at, int64_t t) {
  return p.starts && p.starts[at.row * p.length + t];
}

// Where the numbers of a tile begin in an array (batch, channels, count).
int64_t of_row(const LinearScan& p, const Place& at, int64_t count) {
  return (at.row * p.channels + at.first) * count;
}

// And in one (batch, length, channels, count).
int64_t of_element(const LinearScan& p, const Place& at, int64_t t, int64_t count) {
  return ((at.row * p.length + t) * p.channels + at.first) * count;
}

const float* element(const Rows& x, const Place& at, int64_t t, int64_t count) {
  return x.data + at.row * x.batch_stride + t * x.time_stride + at.first * count;
}

// Numbers that lie beside each other, into planes.
template <int count, typename number>
void spread(int64_t lanes, const number* __restrict from, double* __restrict to) {
  for (int64_t l = 0; l < lanes; l++)
    for (int n = 0; n < count; n++) to[n * kTile + l] = from[l * count + n];
}

template <int count, typename number>
void join(int64_t lanes, const double* __restrict from, number* __restrict to) {
  for (int64_t l = 0; l < lanes; l++)
    for (int n = 0; n < count; n++) to[l * count + n] = static_cast<number>(from[n * kTile + l]);
}

// The four numbers of a 2 x 2 transition, of which a complex number has two.
struct Pair {
  double to0_from0, to0_from1, to1_from0, to1_from1;
};

template <Carry kind>
inline Pair pair_at(const double* a, int64_t l) {
  if (kind == kComplex) return {a[l], -a[kTile + l], a[kTile + l], a[l]};
  return {a[l], a[kTile + l], a[2 * kTile + l], a[3 * kTile + l]};
}

// x <- a x + b, also written to h.
template <Carry kind>
void advance(int64_t lanes, const double* __restrict a, const float* __restrict b, double* __restrict x,
             float* __restrict h) {
  for (int64_t l = 0; l < lanes; l++) {
    if constexpr (kind == kReal) {
      x[l] = a[l] * x[l] + b[l];
      h[l] = static_cast<float>(x[l]);
    } else {
      const Pair m = pair_at<kind>(a, l);
      const double x0 = x[l], x1 = x[kTile + l];
      const double new0 = m.to0_from0 * x0 + m.to0_from1 * x1 + b[2 * l];
      const double new1 = m.to1_from0 * x0 + m.to1_from1 * x1 + b[2 * l + 1];
      x[l] = new0;
      x[kTile + l] = new1;
      h[2 * l] = static_cast<float>(new0);
      h[2 * l + 1] = static_cast<float>(new1);
    }
  }
}

// g = dh + flow, flow <- a* g; the slope g before* is added to that of a shared transition, or written.
template <Carry kind, bool shared>
void retreat(int64_t lanes, const double* __restrict a, const float* __restrict dh, const float* __restrict before,
             double* __restrict flow, float* __restrict grad_b, double* __restrict total, float* __restrict grad_a) {
  for (int64_t l = 0; l < lanes; l++) {
    if constexpr (kind == kReal) {
      const double g = dh[l] + flow[l], slope = g * before[l];
      flow[l] = a[l] * g;
      grad_b[l] = static_cast<float>(g);
      if constexpr (shared)
        total[l] += slope;
      else
        grad_a[l] = static_cast<float>(slope);
    } else {
      const Pair m = pair_at<kind>(a, l);
      const double g0 = dh[2 * l] + flow[l], g1 = dh[2 * l + 1] + flow[kTile + l];
      const double h0 = before[2 * l], h1 = before[2 * l + 1];
      flow[l] = m.to0_from0 * g0 + m.to1_from0 * g1;
      flow[kTile + l] = m.to0_from1 * g0 + m.to1_from1 * g1;
      grad_b[2 * l] = static_cast<float>(g0);
      grad_b[2 * l + 1] = static_cast<float>(g1);
      if constexpr (kind == kComplex) {
        const double slope_re = g0 * h0 + g1 * h1, slope_im = g1 * h0 - g0 * h1;
        if constexpr (shared) {
          total[l] += slope_re;
          total[kTile + l] += slope_im;
        } else {
          grad_a[2 * l] = static_cast<float>(slope_re);
          grad_a[2 * l + 1] = static_cast<float>(slope_im);
        }
      } else if constexpr (shared) {
        total[l] += g0 * h0;
        total[kTile + l] += g0 * h1;
        total[2 * kTile + l] += g1 * h0;
        total[3 * kTile + l] += g1 * h1;
      } else {
        grad_a[4 * l] = static_cast<float>(g0 * h0);
        grad_a[4 * l + 1] = static_cast<float>(g0 * h1);
        grad_a[4 * l + 2] = static_cast<float>(g1 * h0);
        grad_a[4 * l + 3] = static_cast<float>(g1 * h1);
      }
    }
  }
}

template <Carry kind>
void forward_tile(const LinearScan& p, const Place& at) {
  constexpr int count = kState<kind>, planes = kPlanes<kind>;
  const int64_t valid = length_of(p, at), bytes = at.lanes * count * sizeof(float);
  alignas(64) double a[planes * kTile], x[count * kTile] = {};
  if (p.shared) spread<planes>(at.lanes, p.shared + at.first * planes, a);
  if (p.state) spread<count>(at.lanes, p.state + of_row(p, at, count), x);
  for (int64_t t = 0; t < valid; t++) {
    if (!p.shared) spread<planes>(at.lanes, element(p.a, at, t, planes), a);
    if (is_start(p, at, t)) std::memset(x, 0, sizeof(x));
    advance<kind>(at.lanes, a, element(p.b, at, t, count), x, p.h + of_element(p, at, t, count));
  }
  for (int64_t t = valid; t < p.length; t++) std::memset(p.h + of_element(p, at, t, count), 0, bytes);
  join<count>(at.lanes, x, p.final_state + of_row(p, at, count));
}

template <Carry kind, bool shared>
void backward_tile(const LinearScan& p, const Place& at) {
  constexpr int count = kState<kind>, planes = kPlanes<kind>;
  const int64_t valid = length_of(p, at), lanes = at.lanes;
  const float nothing[count * kTile] = {};
  alignas(64) double a[planes * kTile], flow[count * kTile], total[planes * kTile] = {};
  if (shared) spread<planes>(lanes, p.shared + at.first * planes, a);
  spread<count>(lanes, p.grad_final + of_row(p, at, count), flow);
  for (int64_t t = valid; t < p.length; t++) {
    std::memset(p.grad_b + of_element(p, at, t, count), 0, lanes * count * sizeof(float));
    if (!shared) std::memset(p.grad_a + of_element(p, at, t, planes), 0, lanes * planes * sizeof(float));
  }
  for (int64_t t = valid - 1; t >= 0; t--) {
    const bool is_first = is_start(p, at, t);
    const float* before = is_first ? nothing
                          : t > 0  ? p.h + of_element(p, at, t - 1, count)
                          : p.state ? p.state + of_row(p, at, count)
                                    : nothing;
    if (!shared) spread<planes>(lanes, element(p.a, at, t, planes), a);
    retreat<kind, shared>(lanes, a, p.grad_h + of_element(p, at, t, count), before, flow,
                          p.grad_b + of_element(p, at, t, count), total,
                          shared ? nullptr : p.grad_a + of_element(p, at, t, planes));
    if (is_first) std::memset(flow, 0, sizeof(flow));
  }
  join<count>(lanes, flow, p.grad_state + of_row(p, at, count));
  if (shared) join<planes>(lanes, total, p.grad_shared + of_row(p, at, planes));
}

template <Carry kind>
void backward_tile(const LinearScan& p, const Place& at) {
  if (p.shared)
    backward_tile<kind, true>(p, at);
  else
    backward_tile<kind, false>(p, at);
}

}  // namespace

extern "C" {

int64_t JOIN(longstate_linear_tile_, ISA)() { return kTile; }

void JOIN(longstate_linear_forward_, ISA)(const LinearScan* p, int64_t begin, int64_t end) {
  void (*run)(const LinearScan&, const Place&) = forward_tile<kDense>;
  if (p->kind == kReal) run = forward_tile<kReal>;
  if (p->kind == kComplex) run = forward_tile<kComplex>;
  for (int64_t task = begin; task < end; task++) run(*p, place_of(*p, task));
}

void JOIN(longstate_linear_backward_, ISA)(const LinearScan* p, int64_t begin, int64_t end) {
  void (*run)(const LinearScan&, const Place&) = backward_tile<kDense>;
  if (p->kind == kReal) run = backward_tile<kReal>;
  if (p->kind == kComplex) run = backward_tile<kComplex>;
  for (int64_t task = begin; task < end; task++) run(*p, place_of(*p, task));
}
}
