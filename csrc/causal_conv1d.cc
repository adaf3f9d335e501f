// The short causal convolution, forward and backward; compiled once for every instruction set (ISA names it).
//
//   y_t = silu(bias + sum_{k < W} weight_k x_{t - (W-1) + k}), without inputs before the last start until t
//
// A task is a tile of features of one row of the batch, whose filters, sums and last inputs stay in the first-level
// cache while time goes by; features lie beside each other, so every inner loop runs over them. The backward pass
// computes the argument of the activation again. Four taps, which all models have, go in one pass over the features.
#include <vector>

#include "lanes_math.h"
#include "longstate.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

namespace {

constexpr int64_t kTile = 256;
constexpr int64_t kAhead = 2;  // steps
const float kNothing[kTile] = {};

struct Place {
  int64_t row, first, lanes;  // features first .. first + lanes - 1
};

Place place_of(const CausalConv1d& p, int64_t task) {
  const int64_t tiles = (p.features + kTile - 1) / kTile, first = task % tiles * kTile, left = p.features - first;
  return {task / tiles, first, left < kTile ? left : kTile};
}

int64_t length_of(const CausalConv1d& p, const Place& at) { return p.lengths ? p.lengths[at.row] : p.length; }

bool is_start(const CausalConv1d& p, const Place& at, int64_t t) {
  return p.starts && p.starts[at.row * p.length + t];
}

// The input at t, which lies in the tail before 0, and does not count before `start`.
const float* input(const CausalConv1d& p, const Place& at, int64_t t, int64_t start) {
  if (t < start) return kNothing;
  if (t >= 0) return p.x.data + at.row * p.x.batch_stride + t * p.x.time_stride + at.first;
  return p.tail + (at.row * (p.taps - 1) + p.taps - 1 + t) * p.features + at.first;
}

const float* filter(const CausalConv1d& p, const Place& at, int64_t tap) { return p.weight + tap * p.features + at.first; }

// Has a row brought near before its turn: it ends before the machine sees that it will be read or written.
template <bool written>
void fetch(const float* row, int64_t lanes) {
#if !defined(_MSC_VER)
  for (int64_t l = 0; l < lanes; l += 16) __builtin_prefetch(row + l, written, 2);
#else
  (void)row, (void)lanes;
#endif
}

void add_tap(int64_t lanes, const float* __restrict w, const float* __restrict x, float* __restrict sum) {
  for (int64_t l = 0; l < lanes; l++) sum[l] += w[l] * x[l];
}

void add_four_taps(int64_t lanes, int64_t down, const float* __restrict w, const float* __restrict x0,
                   const float* __restrict x1, const float* __restrict x2, const float* __restrict x3,
                   float* __restrict sum) {
  for (int64_t l = 0; l < lanes; l++)
    sum[l] += w[l] * x0[l] + w[down + l] * x1[l] + w[2 * down + l] * x2[l] + w[3 * down + l] * x3[l];
}

// sum = offset + four taps, whose weights lie `down` apart.
void four_taps(int64_t lanes, int64_t down, const float* __restrict w, const float* __restrict x0,
               const float* __restrict x1, const float* __restrict x2, const float* __restrict x3,
               const float* __restrict offset, float* __restrict sum) {
  for (int64_t l = 0; l < lanes; l++)
    sum[l] = offset[l] + (w[l] * x0[l] + w[down + l] * x1[l] + w[2 * down + l] * x2[l] + w[3 * down + l] * x3[l]);
}

// What four inputs add to the derivatives by their weights (4, kTile), and 1 to that by the bias.
void accumulate_four(int64_t lanes, const float* __restrict slope, const float* __restrict x0,
                     const float* __restrict x1, const float* __restrict x2, const float* __restrict x3,
                     float* __restrict weight, float* __restrict bias) {
  for (int64_t l = 0; l < lanes; l++) {
    const float s = slope[l];
    weight[l] += s * x0[l];
    weight[kTile + l] += s * x1[l];
    weight[2 * kTile + l] += s * x2[l];
    weight[3 * kTile + l] += s * x3[l];
    bias[l] += s;
  }
}

// The argument of the activation at t, of inputs from `start`.
void convolve(const CausalConv1d& p, const Place& at, int64_t t, int64_t start, float* sum) {
  const float* offset = p.bias ? p.bias + at.first : kNothing;
  int64_t tap = 0, from = t - (p.taps - 1);
  if (p.taps >= 4) {
    four_taps(at.lanes, p.features, filter(p, at, 0), input(p, at, from, start), input(p, at, from + 1, start),
              input(p, at, from + 2, start), input(p, at, from + 3, start), offset, sum);
    tap += 4, from += 4;
  } else {
    std::memcpy(sum, offset, at.lanes * sizeof(float));
  }
  for (; tap + 4 <= p.taps; tap += 4, from += 4)
    add_four_taps(at.lanes, p.features, filter(p, at, tap), input(p, at, from, start),
                  input(p, at, from + 1, start), input(p, at, from + 2, start), input(p, at, from + 3, start), sum);
  for (; tap < p.taps; tap++, from++) add_tap(at.lanes, filter(p, at, tap), input(p, at, from, start), sum);
}

// Whole vectors of the kTile numbers in `sum`, of which `lanes` go to y.
void activate(int64_t lanes, const float* sum, float* y) {
  for (int64_t l = 0; l < lanes; l += kLanes) {
    const vec x = load(sum + l, kLanes);
    store(x * sigmoid(x), y + l, lanes - l < kLanes ? lanes - l : kLanes);
  }
}

// slope = grad * silu'(sum), of kTile numbers each but for grad.
void through_activation(int64_t lanes, const float* grad, const float* sum, float* slope) {
  for (int64_t l = 0; l < lanes; l += kLanes) {
    const vec x = load(sum + l, kLanes), open = sigmoid(x);
    store(load(grad + l, lanes - l < kLanes ? lanes - l : kLanes) * open * (1.f + x * (1.f - open)), slope + l, kLanes);
  }
}

void accumulate(int64_t lanes, const float* __restrict slope, float* __restrict sum) {
  for (int64_t l = 0; l < lanes; l++) sum[l] += slope[l];
}

void forward_tile(const CausalConv1d& p, const Place& at) {
  const int64_t valid = length_of(p, at);
  int64_t start = 1 - p.taps;
  float sum[kTile] = {};
  for (int64_t t = 0; t < p.length; t++) {
    float* y = p.y + (at.row * p.length + t) * p.features + at.first;
    if (t >= valid) {
      std::memset(y, 0, at.lanes * sizeof(float));
      continue;
    }
    if (t + kAhead < valid) {
      fetch<false>(input(p, at, t + kAhead, start), at.lanes);
      fetch<true>(y + kAhead * p.features, at.lanes);
    }
    if (is_start(p, at, t)) start = t;
    if (p.silu) {
      convolve(p, at, t, start, sum);
      activate(at.lanes, sum, y);
    } else {
      convolve(p, at, t, start, y);
    }
  }
}

void backward_tile(const CausalConv1d& p, const Place& at) {
  const int64_t valid = length_of(p, at), W = p.taps, lanes = at.lanes;
  std::vector<float> last(W * kTile), grad_weight(W * kTile), grad_bias(kTile);  // `last`: slopes of the last W steps
  int64_t start = 1 - W;
  float sum[kTile] = {};
  for (int64_t t = 0; t < valid + W - 1; t++) {
    float* slope = last.data() + t % W * kTile;
    if (t < valid) {
      if (is_start(p, at, t)) start = t;
      const float* grad = p.grad_y + (at.row * p.length + t) * p.features + at.first;
      if (t + kAhead < valid) {
        fetch<false>(input(p, at, t + kAhead, start), lanes);
        fetch<false>(grad + kAhead * p.features, lanes);
        fetch<true>(p.grad_x + (at.row * p.length + t) * p.features + at.first, lanes);
      }
      if (p.silu) {
        convolve(p, at, t, start, sum);
        through_activation(lanes, grad, sum, slope);
      } else {
        std::memcpy(slope, grad, lanes * sizeof(float));
      }
      if (W == 4) {
        accumulate_four(lanes, slope, input(p, at, t - 3, start), input(p, at, t - 2, start), input(p, at, t - 1, start),
                        input(p, at, t, start), grad_weight.data(), grad_bias.data());
      } else {
        for (int64_t tap = 0; tap < W; tap++)
          add_tap(lanes, slope, input(p, at, t - (W - 1) + tap, start), grad_weight.data() + tap * kTile);
        accumulate(lanes, slope, grad_bias.data());
      }
    } else {
      std::memset(slope, 0, lanes * sizeof(float));
    }
    // The oldest input that reaches t has now met all of its outputs.
    const int64_t s = t - (W - 1);
    float* to = s < 0 ? p.grad_tail + (at.row * (W - 1) + t) * p.features + at.first
                      : p.grad_x + (at.row * p.length + s) * p.features + at.first;
    if (W == 4 && s >= 0 && !p.starts) {
      auto after = [&](int64_t steps) { return last.data() + (s + steps) % 4 * kTile; };
      four_taps(lanes, -p.features, filter(p, at, 3), after(0), after(1), after(2), after(3), kNothing, to);
      continue;
    }
    std::memset(sum, 0, lanes * sizeof(float));
    for (int64_t tap = s < 0 ? W - 1 - t : 0; tap < W; tap++) {
      if (tap > 0 && s + tap < valid && is_start(p, at, s + tap)) break;  // this and later outputs do not see s
      add_tap(lanes, filter(p, at, W - 1 - tap), last.data() + (s + tap) % W * kTile, sum);
    }
    std::memcpy(to, sum, lanes * sizeof(float));
  }
  for (int64_t t = valid; t < p.length; t++)
    std::memset(p.grad_x + (at.row * p.length + t) * p.features + at.first, 0, lanes * sizeof(float));
  for (int64_t tap = 0; tap < W; tap++)
    std::memcpy(p.grad_weight + (at.row * W + tap) * p.features + at.first, grad_weight.data() + tap * kTile,
                lanes * sizeof(float));
  std::memcpy(p.grad_bias + at.row * p.features + at.first, grad_bias.data(), lanes * sizeof(float));
}

}  // namespace

extern "C" {

int64_t JOIN(longstate_conv1d_tile_, ISA)() { return kTile; }

void JOIN(longstate_conv1d_forward_, ISA)(const CausalConv1d* p, int64_t begin, int64_t end) {
  for (int64_t task = begin; task < end; task++) forward_tile(*p, place_of(*p, task));
}

void JOIN(longstate_conv1d_backward_, ISA)(const CausalConv1d* p, int64_t begin, int64_t end) {
  for (int64_t task = begin; task < end; task++) backward_tile(*p, place_of(*p, task));
}
}
