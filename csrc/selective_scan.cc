// The selective scan of Mamba, forward and backward; compiled once for every instruction set (ISA names it).
//
//   h_t = exp(D_t A) h_{t-1} + D_t B_t u_t,    y_t = (C_t h_t + D u_t) silu(z_t),    D_t = softplus(dt_t + dt_bias)
//
// A task is one tile of kLanes channels of one row of the batch; its states stay in the first-level cache while time
// goes by. The channels of a tile lie beside each other, so every inner loop runs over lanes. Blocks of kBlock steps
// are staged in local arrays, where lanes that a last tile lacks are zero. The forward pass keeps the states between
// blocks; the backward pass goes through the blocks in reverse and computes what is inside them again.
#include <cstdlib>
#include <new>
#include <vector>

#include "fastmath.h"
#include "longstate.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

namespace {

constexpr int64_t kLanes = 64;
constexpr int64_t kBlock = 32;

struct Tile {
  int64_t row, group, first, lanes;  // channels first .. first + lanes - 1
};

int64_t tiles_of_group(const SelectiveScan& p) { return (p.channels / p.groups + kLanes - 1) / kLanes; }

Tile tile_of(const SelectiveScan& p, int64_t task) {
  const int64_t in_group = tiles_of_group(p), width = p.channels / p.groups;
  const int64_t tiles = in_group * p.groups;
  const int64_t tile = task % tiles, group = tile / in_group, place = tile % in_group * kLanes;
  return {task / tiles, group, group * width + place, width - place < kLanes ? width - place : kLanes};
}

int64_t length_of(const SelectiveScan& p, int64_t row) { return p.lengths ? p.lengths[row] : p.length; }

bool is_start(const SelectiveScan& p, int64_t row, int64_t t) { return p.starts && p.starts[row * p.length + t]; }

const float* at(const Rows& rows, int64_t row, int64_t t) {
  return rows.data + row * rows.batch_stride + t * rows.time_stride;
}

// Per-channel arrays of a tile, one lane a channel: (states, lanes) from (channels, states).
void gather(const float* from, int64_t states, int64_t lanes, float* to) {
  for (int64_t n = 0; n < states; n++)
    for (int64_t l = 0; l < kLanes; l++) to[n * kLanes + l] = l < lanes ? from[l * states + n] : 0.f;
}

void scatter(const float* from, int64_t states, int64_t lanes, float* to) {
  for (int64_t n = 0; n < states; n++)
    for (int64_t l = 0; l < lanes; l++) to[l * states + n] = from[n * kLanes + l];
}

struct Scratch {
  std::vector<float> A, h, a, all, g, grad_A;
  float bias[kLanes], skip[kLanes];
  float u[kBlock][kLanes], raw[kBlock][kLanes], step[kBlock][kLanes], x[kBlock][kLanes], y[kBlock][kLanes];
  float z[kBlock][kLanes], dy[kBlock][kLanes];

  Scratch(int64_t states, bool backward)
      : A(states * kLanes), h(states * kLanes), a(backward ? kBlock * states * kLanes : 0),
        all(backward ? (kBlock + 1) * states * kLanes : 0), g(backward ? states * kLanes : 0),
        grad_A(backward ? states * kLanes : 0) {}

  void begin(const SelectiveScan& p, const Tile& tile) {
    gather(p.A + tile.first * p.states, p.states, tile.lanes, A.data());
    for (int64_t l = 0; l < kLanes; l++) {
      const bool inside = l < tile.lanes;
      bias[l] = inside && p.dt_bias ? p.dt_bias[tile.first + l] : 0.f;
      skip[l] = inside && p.D ? p.D[tile.first + l] : 0.f;
    }
  }
};

void load(const float* from, int64_t lanes, float* to) {
  if (lanes == kLanes) {
    std::memcpy(to, from, kLanes * sizeof(float));
    return;
  }
  for (int64_t l = 0; l < kLanes; l++) to[l] = l < lanes ? from[l] : 0.f;
}

void stage(const SelectiveScan& p, const Tile& tile, int64_t begin, int64_t count, Scratch& s) {
  for (int64_t t = 0; t < count; t++) {
    load(at(p.u, tile.row, begin + t) + tile.first, tile.lanes, s.u[t]);
    load(at(p.dt, tile.row, begin + t) + tile.first, tile.lanes, s.raw[t]);
    if (p.z.data) load(at(p.z, tile.row, begin + t) + tile.first, tile.lanes, s.z[t]);
    for (int64_t l = 0; l < kLanes; l++) s.raw[t][l] += s.bias[l];
    if (p.softplus)
      for (int64_t l = 0; l < kLanes; l++) s.step[t][l] = fast_softplus(s.raw[t][l]);
    else
      std::memcpy(s.step[t], s.raw[t], sizeof(s.step[t]));
    for (int64_t l = 0; l < kLanes; l++) s.x[t][l] = s.step[t][l] * s.u[t][l];
  }
}

// One step of the recurrence for all states of a tile; y gains the readout.
void advance(int64_t states, const float* __restrict A, const float* __restrict step, const float* __restrict x,
             const float* __restrict B, const float* __restrict C, float* __restrict h, float* __restrict y) {
  for (int64_t n = 0; n < states; n++) {
    const float b = B[n], c = C[n];
    const float* An = A + n * kLanes;
    float* hn = h + n * kLanes;
    for (int64_t l = 0; l < kLanes; l++) {
      const float next = fast_exp(step[l] * An[l]) * hn[l] + x[l] * b;
      hn[l] = next;
      y[l] += c * next;
    }
  }
}

void forward_tile(const SelectiveScan& p, const Tile& tile, Scratch& s) {
  const int64_t states = p.states, length = length_of(p, tile.row);
  const int64_t blocks = (p.length + kBlock - 1) / kBlock;
  float* h = s.h.data();
  s.begin(p, tile);
  if (p.state)
    gather(p.state + (tile.row * p.channels + tile.first) * states, states, tile.lanes, h);
  else
    std::memset(h, 0, states * kLanes * sizeof(float));
  for (int64_t block = 0; block < blocks; block++) {
    const int64_t begin = block * kBlock;
    const int64_t end = begin + kBlock < p.length ? begin + kBlock : p.length;
    const int64_t count = (end < length ? end : length) - begin;
    if (p.borders)
      scatter(h, states, tile.lanes, p.borders + ((tile.row * blocks + block) * p.channels + tile.first) * states);
    stage(p, tile, begin, count, s);
    for (int64_t t = 0; t < count; t++) {
      if (is_start(p, tile.row, begin + t)) std::memset(h, 0, states * kLanes * sizeof(float));
      for (int64_t l = 0; l < kLanes; l++) s.y[t][l] = s.skip[l] * s.u[t][l];
      const int64_t vector = tile.group * states;
      advance(states, s.A.data(), s.step[t], s.x[t], at(p.B, tile.row, begin + t) + vector,
              at(p.C, tile.row, begin + t) + vector, h, s.y[t]);
      if (p.z.data)
        for (int64_t l = 0; l < kLanes; l++) s.y[t][l] *= s.z[t][l] * fast_sigmoid(s.z[t][l]);
    }
    for (int64_t t = begin; t < end; t++) {
      float* to = p.y + (tile.row * p.length + t) * p.channels + tile.first;
      if (t - begin < count)
        std::memcpy(to, s.y[t - begin], tile.lanes * sizeof(float));
      else
        std::memset(to, 0, tile.lanes * sizeof(float));
    }
  }
  scatter(h, states, tile.lanes, p.final_state + (tile.row * p.channels + tile.first) * states);
}

// `advance` that keeps the decay and the state after the step beside the state before it.
void keep_states(int64_t states, float keep, const float* __restrict A, const float* __restrict step,
                 const float* __restrict x, const float* __restrict B, const float* __restrict C,
                 const float* __restrict before, float* __restrict a, float* __restrict after, float* __restrict y) {
  for (int64_t n = 0; n < states; n++) {
    const float b = B[n], c = C[n];
    const float *An = A + n * kLanes, *old = before + n * kLanes;
    float *an = a + n * kLanes, *now = after + n * kLanes;
    for (int64_t l = 0; l < kLanes; l++) {
      const float decay = keep * fast_exp(step[l] * An[l]);
      const float next = decay * old[l] + x[l] * b;
      an[l] = decay;
      now[l] = next;
      y[l] += c * next;
    }
  }
}

// Decays and states of a block, from the state in all[0]; a step's decay is 0 where a sequence begins.
void recompute(const SelectiveScan& p, const Tile& tile, int64_t begin, int64_t count, Scratch& s) {
  const int64_t states = p.states, size = states * kLanes;
  for (int64_t t = 0; t < count; t++) {
    const float* B = at(p.B, tile.row, begin + t) + tile.group * states;
    const float* C = at(p.C, tile.row, begin + t) + tile.group * states;
    const float keep = is_start(p, tile.row, begin + t) ? 0.f : 1.f;
    for (int64_t l = 0; l < kLanes; l++) s.y[t][l] = s.skip[l] * s.u[t][l];
    keep_states(states, keep, s.A.data(), s.step[t], s.x[t], B, C, s.all.data() + t * size, s.a.data() + t * size,
                s.all.data() + (t + 1) * size, s.y[t]);
  }
}

// The gate: what reaches the scan (dy) and z from the gradient of the output.
void through_gate(const SelectiveScan& p, const Tile& tile, int64_t begin, int64_t count, Scratch& s) {
  for (int64_t t = 0; t < count; t++) {
    const int64_t place = (tile.row * p.length + begin + t) * p.channels + tile.first;
    load(p.grad_y + place, tile.lanes, s.dy[t]);
    if (!p.z.data) continue;
    float grad_z[kLanes];
    for (int64_t l = 0; l < kLanes; l++) {
      const float z = s.z[t][l], open = fast_sigmoid(z), dout = s.dy[t][l];
      grad_z[l] = dout * s.y[t][l] * open * (1.f + z * (1.f - open));
      s.dy[t][l] = dout * z * open;
    }
    std::memcpy(p.grad_z + place, grad_z, tile.lanes * sizeof(float));
  }
}

// One step back for all states of a tile: g is the gradient by the state after the step, and becomes that before it.
void retreat(int64_t states, const float* __restrict A, const float* __restrict step, const float* __restrict x,
             const float* __restrict dy, const float* __restrict B, const float* __restrict C,
             const float* __restrict a, const float* __restrict before, const float* __restrict after,
             float* __restrict g, float* __restrict grad_A, float* __restrict drive, float* __restrict through,
             float* __restrict grad_B, float* __restrict grad_C) {
  for (int64_t n = 0; n < states; n++) {
    const float b = B[n], c = C[n];
    const float *An = A + n * kLanes, *an = a + n * kLanes, *old = before + n * kLanes, *now = after + n * kLanes;
    float *gn = g + n * kLanes, *grad_An = grad_A + n * kLanes;
    float sum_B = 0.f, sum_C = 0.f;
#pragma omp simd reduction(+ : sum_B, sum_C)
    for (int64_t l = 0; l < kLanes; l++) {
      const float slope = gn[l] + dy[l] * c;
      const float decayed = slope * an[l];
      const float by_exponent = decayed * old[l];
      sum_C += dy[l] * now[l];
      sum_B += slope * x[l];
      drive[l] += slope * b;
      grad_An[l] += by_exponent * step[l];
      through[l] += by_exponent * An[l];
      gn[l] = decayed;
    }
    grad_B[n] = sum_B;
    grad_C[n] = sum_C;
  }
}

void backward_tile(const SelectiveScan& p, const Tile& tile, int64_t part, Scratch& s) {
  const int64_t states = p.states, size = states * kLanes, length = length_of(p, tile.row);
  const int64_t blocks = (p.length + kBlock - 1) / kBlock;
  const int64_t here = (tile.row * p.channels + tile.first) * states;
  float *g = s.g.data(), *grad_A = s.grad_A.data();
  float grad_bias[kLanes] = {}, grad_D[kLanes] = {};
  s.begin(p, tile);
  gather(p.grad_final + here, states, tile.lanes, g);
  std::memset(grad_A, 0, size * sizeof(float));
  for (int64_t block = blocks - 1; block >= 0; block--) {
    const int64_t begin = block * kBlock;
    const int64_t end = begin + kBlock < p.length ? begin + kBlock : p.length;
    const int64_t valid = (end < length ? end : length) - begin, count = valid > 0 ? valid : 0;
    for (int64_t t = begin + count; t < end; t++) {
      const int64_t place = (tile.row * p.length + t) * p.channels + tile.first;
      std::memset(p.grad_u + place, 0, tile.lanes * sizeof(float));
      std::memset(p.grad_dt + place, 0, tile.lanes * sizeof(float));
      if (p.z.data) std::memset(p.grad_z + place, 0, tile.lanes * sizeof(float));
      const int64_t vector = ((part * p.batch + tile.row) * p.length + t) * states;
      std::memset(p.grad_B + vector, 0, states * sizeof(float));
      std::memset(p.grad_C + vector, 0, states * sizeof(float));
    }
    if (count == 0) continue;
    gather(p.borders + ((tile.row * blocks + block) * p.channels + tile.first) * states, states, tile.lanes,
           s.all.data());
    stage(p, tile, begin, count, s);
    recompute(p, tile, begin, count, s);
    through_gate(p, tile, begin, count, s);
    for (int64_t t = count - 1; t >= 0; t--) {
      const float* B = at(p.B, tile.row, begin + t) + tile.group * states;
      const float* C = at(p.C, tile.row, begin + t) + tile.group * states;
      const float* step = s.step[t];
      const int64_t vector = ((part * p.batch + tile.row) * p.length + begin + t) * states;
      float drive[kLanes] = {}, through[kLanes] = {};
      retreat(states, s.A.data(), step, s.x[t], s.dy[t], B, C, s.a.data() + t * size, s.all.data() + t * size,
              s.all.data() + (t + 1) * size, g, grad_A, drive, through, p.grad_B + vector, p.grad_C + vector);
      float grad_u[kLanes], grad_dt[kLanes];
      for (int64_t l = 0; l < kLanes; l++) {
        const float slope = through[l] + drive[l] * s.u[t][l];
        grad_dt[l] = p.softplus ? slope * fast_sigmoid(s.raw[t][l]) : slope;
        grad_u[l] = drive[l] * step[l] + s.skip[l] * s.dy[t][l];
        grad_bias[l] += grad_dt[l];
        grad_D[l] += s.dy[t][l] * s.u[t][l];
      }
      const int64_t place = (tile.row * p.length + begin + t) * p.channels + tile.first;
      std::memcpy(p.grad_u + place, grad_u, tile.lanes * sizeof(float));
      std::memcpy(p.grad_dt + place, grad_dt, tile.lanes * sizeof(float));
    }
  }
  scatter(g, states, tile.lanes, p.grad_state + here);
  scatter(grad_A, states, tile.lanes, p.grad_A + here);
  for (int64_t l = 0; l < tile.lanes; l++) {
    p.grad_bias[tile.row * p.channels + tile.first + l] = grad_bias[l];
    p.grad_D[tile.row * p.channels + tile.first + l] = grad_D[l];
  }
}

}  // namespace

extern "C" {

int64_t JOIN(longstate_selective_block_, ISA)() { return kBlock; }

int64_t JOIN(longstate_selective_tiles_, ISA)(int64_t channels, int64_t groups) {
  return (channels / groups + kLanes - 1) / kLanes;
}

void JOIN(longstate_selective_forward_, ISA)(const SelectiveScan* p, int64_t begin, int64_t end) {
  Scratch scratch(p->states, false);
  for (int64_t task = begin; task < end; task++) forward_tile(*p, tile_of(*p, task), scratch);
}

void JOIN(longstate_selective_backward_, ISA)(const SelectiveScan* p, int64_t begin, int64_t end) {
  Scratch scratch(p->states, true);
  const int64_t tiles = tiles_of_group(*p) * p->groups;
  for (int64_t task = begin; task < end; task++) backward_tile(*p, tile_of(*p, task), task % tiles, scratch);
}
}
