// Diagonal systems under intervals that vary, forward and backward; compiled once for every instruction set (ISA names
// it).
//
//   x_t = e^(r_t z) x_{t-1} + growth_t gain u_t,  y_t = Re(C x_t),  growth_t = e^(r_t z) - 1, or 1 if inputs are not held
//
// A task is a tile of as many features as there are lanes of one row of the batch, whose states, exponents and gains
// stay in the first-level cache while time goes by; what a transition is at an element is computed there and never
// stored for the length. The backward pass goes through blocks of kBlock elements from the end and computes each again
// from the state before it.
#include <utility>
#include <vector>

#include "fastmath.h"
#include "lanes.h"
#include "longstate.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

namespace {

constexpr int64_t kBlock = 16;
constexpr int64_t kPair = 2 * kLanes;  // re, im of a mode for all lanes

struct Place {
  int64_t row, tile, first, lanes;  // features first .. first + lanes - 1
};

int64_t tiles_of(const VaryingScan& p) { return (p.features + kLanes - 1) / kLanes; }

Place place_of(const VaryingScan& p, int64_t task) {
  const int64_t tile = task % tiles_of(p), first = tile * kLanes, left = p.features - first;
  return {task / tiles_of(p), tile, first, left < kLanes ? left : kLanes};
}

int64_t length_of(const VaryingScan& p, const Place& at) { return p.lengths ? p.lengths[at.row] : p.length; }

bool is_start(const VaryingScan& p, const Place& at, int64_t t) {
  return p.starts && p.starts[at.row * p.length + t];
}

// Rows of a tile in an array (rows, features), zeros in the lanes that are left over; and back.
void gather(const VaryingScan& p, const Place& at, const float* from, int64_t rows, float* to) {
  for (int64_t i = 0; i < rows; i++) {
    std::memset(to + i * kLanes, 0, kLanes * sizeof(float));
    std::memcpy(to + i * kLanes, from + i * p.features + at.first, at.lanes * sizeof(float));
  }
}

void scatter(const VaryingScan& p, const Place& at, const float* from, int64_t rows, float* to) {
  for (int64_t i = 0; i < rows; i++)
    std::memcpy(to + i * p.features + at.first, from + i * kLanes, at.lanes * sizeof(float));
}

struct Scratch {
  std::vector<float> z, gain, C, x, e, flow, grad_z, grad_gain, grad_C;
  float u[kLanes];

  Scratch(const VaryingScan& p, int64_t states, int64_t steps)
      : z(p.modes * kPair), gain(z.size()), C(p.channels * z.size()), x(states * z.size()),
        e(steps * p.modes * 3 * kLanes) {}

  void begin(const VaryingScan& p, const Place& at) {
    gather(p, at, p.z, 2 * p.modes, z.data());
    gather(p, at, p.gain, 2 * p.modes, gain.data());
    gather(p, at, p.C, p.channels * 2 * p.modes, C.data());
  }

  void read_input(const VaryingScan& p, const Place& at, int64_t t) {
    gather(p, at, p.u.data + at.row * p.u.batch_stride + t * p.u.time_stride, 1, u);
  }
};

// One step of all modes of a tile: e^(r z) and the real part of the growth into `e`, the new state into `after`.
template <bool held>
void advance(int64_t modes, float rate, float keep, const float* __restrict z, const float* __restrict gain,
             const float* __restrict u, const float* __restrict before, float* __restrict e,
             float* __restrict after) {
  const float half = 0.5f * rate;
  for (int64_t n = 0; n < modes; n++) {
    const float *zn = z + n * kPair, *gn = gain + n * kPair, *old = before + n * kPair;
    float *en = e + n * 3 * kLanes, *now = after + n * kPair;
    for (int64_t l = 0; l < kLanes; l++) {
      const ComplexExp a = fast_complex_exp(rate * zn[l], half * zn[kLanes + l]);
      const float re = gn[l], im = gn[kLanes + l];
      const float drive_re = held ? re * a.less_one - im * a.im : re;
      const float drive_im = held ? re * a.im + im * a.less_one : im;
      const float x_re = keep * old[l], x_im = keep * old[kLanes + l];
      en[l] = a.re;
      en[kLanes + l] = a.im;
      en[2 * kLanes + l] = a.less_one;
      now[l] = a.re * x_re - a.im * x_im + drive_re * u[l];
      now[kLanes + l] = a.re * x_im + a.im * x_re + drive_im * u[l];
    }
  }
}

void read_out(int64_t modes, const float* __restrict C, const float* __restrict x, float* __restrict y) {
  float sum[kLanes] = {};
  for (int64_t n = 0; n < modes; n++) {
    const float *Cn = C + n * kPair, *xn = x + n * kPair;
#pragma omp simd  // or few lanes are unrolled, and the loop over modes is made of vectors
    for (int64_t l = 0; l < kLanes; l++) sum[l] += Cn[l] * xn[l] - Cn[kLanes + l] * xn[kLanes + l];
  }
  for (int64_t l = 0; l < kLanes; l++) y[l] = sum[l];
}

// The derivatives of Re(C x) dy: what is added to those by x and C.
void read_back(int64_t modes, const float* __restrict C, const float* __restrict x, const float* __restrict dy,
               float* __restrict flow, float* __restrict grad_C) {
  for (int64_t n = 0; n < modes; n++) {
    const float *Cn = C + n * kPair, *xn = x + n * kPair;
    float *gn = flow + n * kPair, *slope = grad_C + n * kPair;
#pragma omp simd
    for (int64_t l = 0; l < kLanes; l++) {
      gn[l] += Cn[l] * dy[l];
      gn[kLanes + l] -= Cn[kLanes + l] * dy[l];
      slope[l] += xn[l] * dy[l];
      slope[kLanes + l] -= xn[kLanes + l] * dy[l];
    }
  }
}

// One step back: `flow` is the derivative by the state after the step, and becomes that by the state before it.
template <bool held>
void retreat(int64_t modes, float rate, float keep, const float* __restrict z, const float* __restrict gain,
             const float* __restrict u, const float* __restrict e, const float* __restrict before,
             float* __restrict flow, float* __restrict grad_z, float* __restrict grad_gain, float* __restrict grad_u,
             float* __restrict grad_rate) {
  for (int64_t n = 0; n < modes; n++) {
    const float *zn = z + n * kPair, *gn = gain + n * kPair, *old = before + n * kPair, *en = e + n * 3 * kLanes;
    float *fn = flow + n * kPair, *by_z = grad_z + n * kPair, *by_gain = grad_gain + n * kPair;
    for (int64_t l = 0; l < kLanes; l++) {
      const float a_re = en[l], a_im = en[kLanes + l], k_re = gn[l], k_im = gn[kLanes + l];
      const float growth_re = held ? en[2 * kLanes + l] : 1.f, growth_im = held ? a_im : 0.f;
      const float g_re = fn[l], g_im = fn[kLanes + l];
      const float p_re = g_re * u[l], p_im = g_im * u[l];
      grad_u[l] += (k_re * growth_re - k_im * growth_im) * g_re + (k_re * growth_im + k_im * growth_re) * g_im;
      by_gain[l] += p_re * growth_re + p_im * growth_im;
      by_gain[kLanes + l] += p_im * growth_re - p_re * growth_im;
      const float x_re = keep * old[l], x_im = keep * old[kLanes + l];
      float s_re = g_re * x_re + g_im * x_im, s_im = g_im * x_re - g_re * x_im;
      if (held) {
        s_re += p_re * k_re + p_im * k_im;
        s_im += p_im * k_re - p_re * k_im;
      }
      const float w_re = a_re * s_re + a_im * s_im, w_im = a_re * s_im - a_im * s_re;
      by_z[l] += rate * w_re;
      by_z[kLanes + l] += rate * w_im;
      grad_rate[l] += zn[l] * w_re + zn[kLanes + l] * w_im;
      fn[l] = keep * (a_re * g_re + a_im * g_im);
      fn[kLanes + l] = keep * (a_re * g_im - a_im * g_re);
    }
  }
}

float* border(const VaryingScan& p, const Place& at, int64_t block) {
  const int64_t blocks = (p.length + kBlock - 1) / kBlock;
  return p.borders + (at.row * blocks + block) * 2 * p.modes * p.features;
}

template <bool held>
void forward_tile(const VaryingScan& p, const Place& at, Scratch& s) {
  const int64_t valid = length_of(p, at), size = p.modes * kPair, row = at.row * 2 * p.modes * p.features;
  float *x = s.x.data(), *next = x + size, y[kLanes];
  s.begin(p, at);
  if (p.state)
    gather(p, at, p.state + row, 2 * p.modes, x);
  else
    std::memset(x, 0, size * sizeof(float));
  for (int64_t t = 0; t < p.length; t++) {
    float* to = p.y + (at.row * p.length + t) * p.channels * p.features;
    if (p.borders && t % kBlock == 0) scatter(p, at, x, 2 * p.modes, border(p, at, t / kBlock));
    if (t >= valid) {
      for (int64_t c = 0; c < p.channels; c++)
        std::memset(to + c * p.features + at.first, 0, at.lanes * sizeof(float));
      continue;
    }
    s.read_input(p, at, t);
    advance<held>(p.modes, p.rate[at.row * p.length + t], is_start(p, at, t) ? 0.f : 1.f, s.z.data(), s.gain.data(),
                  s.u, x, s.e.data(), next);
    std::swap(x, next);
    for (int64_t c = 0; c < p.channels; c++) {
      read_out(p.modes, s.C.data() + c * size, x, y);
      scatter(p, at, y, 1, to + c * p.features);
    }
  }
  scatter(p, at, x, 2 * p.modes, p.final_state + row);
}

template <bool held>
void backward_tile(const VaryingScan& p, const Place& at, Scratch& s) {
  const int64_t valid = length_of(p, at), size = p.modes * kPair, row = at.row * 2 * p.modes * p.features;
  float* grad_rate = p.grad_rate + (at.tile * p.batch + at.row) * p.length;
  s.begin(p, at);
  s.flow.resize(size);
  gather(p, at, p.grad_final + row, 2 * p.modes, s.flow.data());
  s.grad_z.assign(size, 0.f);
  s.grad_gain.assign(size, 0.f);
  s.grad_C.assign(p.channels * size, 0.f);
  for (int64_t t = valid; t < p.length; t++) {
    std::memset(p.grad_u + (at.row * p.length + t) * p.features + at.first, 0, at.lanes * sizeof(float));
    grad_rate[t] = 0.f;
  }
  for (int64_t block = (valid + kBlock - 1) / kBlock - 1; block >= 0; block--) {
    const int64_t begin = block * kBlock, count = valid - begin < kBlock ? valid - begin : kBlock;
    gather(p, at, border(p, at, block), 2 * p.modes, s.x.data());
    for (int64_t i = 0; i < count; i++) {
      s.read_input(p, at, begin + i);
      advance<held>(p.modes, p.rate[at.row * p.length + begin + i], is_start(p, at, begin + i) ? 0.f : 1.f, s.z.data(),
                    s.gain.data(), s.u, s.x.data() + i * size, s.e.data() + i * p.modes * 3 * kLanes,
                    s.x.data() + (i + 1) * size);
    }
    for (int64_t i = count - 1; i >= 0; i--) {
      const int64_t t = begin + i;
      float dy[kLanes], by_u[kLanes] = {}, by_rate[kLanes] = {}, sum = 0.f;
      for (int64_t c = 0; c < p.channels; c++) {
        gather(p, at, p.grad_y + ((at.row * p.length + t) * p.channels + c) * p.features, 1, dy);
        read_back(p.modes, s.C.data() + c * size, s.x.data() + (i + 1) * size, dy, s.flow.data(),
                  s.grad_C.data() + c * size);
      }
      s.read_input(p, at, t);
      retreat<held>(p.modes, p.rate[at.row * p.length + t], is_start(p, at, t) ? 0.f : 1.f, s.z.data(), s.gain.data(),
                    s.u, s.e.data() + i * p.modes * 3 * kLanes, s.x.data() + i * size, s.flow.data(), s.grad_z.data(),
                    s.grad_gain.data(), by_u, by_rate);
      scatter(p, at, by_u, 1, p.grad_u + (at.row * p.length + t) * p.features);
      for (int64_t l = 0; l < kLanes; l++) sum += by_rate[l];
      grad_rate[t] = sum;
    }
  }
  scatter(p, at, s.flow.data(), 2 * p.modes, p.grad_state + row);
  scatter(p, at, s.grad_z.data(), 2 * p.modes, p.grad_z + row);
  scatter(p, at, s.grad_gain.data(), 2 * p.modes, p.grad_gain + row);
  scatter(p, at, s.grad_C.data(), 2 * p.modes * p.channels, p.grad_C + row * p.channels);
}

}  // namespace

extern "C" {

int64_t JOIN(longstate_varying_block_, ISA)() { return kBlock; }

void JOIN(longstate_varying_forward_, ISA)(const VaryingScan* p, int64_t begin, int64_t end) {
  Scratch scratch(*p, 2, 1);
  const auto run = p->held ? forward_tile<true> : forward_tile<false>;
  for (int64_t task = begin; task < end; task++) run(*p, place_of(*p, task), scratch);
}

void JOIN(longstate_varying_backward_, ISA)(const VaryingScan* p, int64_t begin, int64_t end) {
  Scratch scratch(*p, kBlock + 1, kBlock);
  const auto run = p->held ? backward_tile<true> : backward_tile<false>;
  for (int64_t task = begin; task < end; task++) run(*p, place_of(*p, task), scratch);
}
}
