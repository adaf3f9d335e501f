// The scan of Mamba-2 (state space duality), forward and backward; compiled once for every instruction set.
//
//   S_t = e^{l_t} S_{t-1} + w_t x_t B_t^T,    y_t = S_t C_t + D x_t        (l_t <= 0, one number a head)
//
// by blocks of T steps. With c the cumulative sum of l inside a block and S the state before it:
//
//   y_i = sum_{j <= i} (C_i B_j) e^{c_i - c_j} w_j x_j + e^{c_i} S C_i + D x_i
//   S'  = e^{c_T} S + sum_j e^{c_T - c_j} w_j x_j B_j^T
//
// A factor is zero where a sequence starts between its two steps. A task is a few heads of one group of one row of the
// batch, which share C B^T; all that a block needs stays in the second-level cache, and all but the factors are products
// of matrices. A state is kept as (states, width). The forward pass keeps the states between blocks, the backward pass
// computes the blocks again in reverse. There, with q_ij the term of y_i by x_j times the gradient by y_i, r_i that of
// the state before the block, and v_j the term of S' by x_j times the gradient by S',
//
//   dl_t = sum_{j < t <= i} q_ij + sum_{t <= i} r_i + sum_{j < t} v_j + e^{c_T} dS' S
//
// which has no differences: where decays are strong, the terms q_ii and v_T are all that there is, and would cancel.
#include "fastmath.h"
#include "longstate.h"
#include "products.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

namespace {

constexpr int64_t kSteps = 64;   // of a block, at most
constexpr int64_t kHeads = 6;    // of a task, at most
constexpr int64_t kRows = 16;    // of a triangle that are multiplied at once
constexpr float kNothing = -80.f;  // decays below e^-80 are 0: their products would be denormal, and slow

struct Place {
  int64_t row, group, first, last, part;  // heads first .. last - 1; part: index of the task in its row
};

int64_t tiles_of_group(const SSD& p) { return (p.heads / p.groups + kHeads - 1) / kHeads; }

Place place_of(const SSD& p, int64_t task) {
  const int64_t in_group = tiles_of_group(p), tiles = in_group * p.groups, heads = p.heads / p.groups;
  const int64_t part = task % tiles, group = part / in_group, tile = part % in_group;
  const int64_t first = group * heads + tile * heads / in_group, last = group * heads + (tile + 1) * heads / in_group;
  return {task / tiles, group, first, last, part};
}

int64_t length_of(const SSD& p, int64_t row) { return p.lengths ? p.lengths[row] : p.length; }
int64_t blocks_of(const SSD& p) { return (p.length + p.block - 1) / p.block; }

const float* at(const Rows& rows, int64_t row, int64_t t) {
  return rows.data + row * rows.batch_stride + t * rows.time_stride;
}

// The valid steps of a block, and what each of them sees: steps first[i] .. last[i] - 1, and the state before the block
// unless a sequence has started since.
struct Block {
  int64_t begin, count;
  bool begun[kSteps];
  int32_t first[kSteps], instant[kSteps], last[kSteps];  // instant: the first step of the same instant
};

Block block_of(const SSD& p, int64_t row, int64_t index) {
  Block block{};
  const int64_t left = length_of(p, row) - index * p.block;
  block.begin = index * p.block;
  block.count = left < 0 ? 0 : left < p.block ? left : p.block;
  int64_t start = 0;
  bool begun = false;
  for (int64_t i = 0; i < block.count; i++) {
    if (p.starts && p.starts[row * p.length + block.begin + i]) start = i, begun = true;
    const int64_t end = (i / p.rank + 1) * p.rank;
    block.begun[i] = begun;
    block.first[i] = static_cast<int32_t>(start);
    block.instant[i] = static_cast<int32_t>(end - p.rank);
    block.last[i] = static_cast<int32_t>(end < block.count ? end : block.count);
  }
  return block;
}

// What the decays of one head make of a block: c as the sum of two floats, e^{c_i} and e^{c_T - c_j}.
struct Decays {
  float high[kSteps], low[kSteps], since[kSteps], until[kSteps], weight[kSteps];
  float through;
};

inline float decay(float exponent) { return exponent < kNothing ? 0.f : fast_exp(exponent); }

Decays decays_of(const SSD& p, const Place& at_, const Block& block, int64_t head) {
  Decays d{};
  double c = 0;
  for (int64_t i = 0; i < block.count; i++) {
    c += at(p.log_decay, at_.row, block.begin + i)[head];
    d.high[i] = static_cast<float>(c);
    d.low[i] = static_cast<float>(c - d.high[i]);
    d.weight[i] = p.weight.data ? at(p.weight, at_.row, block.begin + i)[head] : 1.f;
  }
  const int64_t end = block.count - 1;
  for (int64_t i = 0; i < block.count; i++) {
    d.since[i] = block.begun[i] ? 0.f : decay(d.high[i]);
    d.until[i] = i < block.first[end] ? 0.f : decay((d.high[end] - d.high[i]) + (d.low[end] - d.low[i]));
  }
  d.through = d.since[end];
  return d;
}

// Row i of e^{c_i - c_j}, its first `columns` columns.
void within(const Block& block, const Decays& d, int64_t i, int64_t columns, float* __restrict row) {
  const int32_t first = block.first[i], last = block.last[i], count = static_cast<int32_t>(columns);
  const float high = d.high[i], low = d.low[i];
  for (int32_t j = 0; j < count; j++) {
    const float factor = decay((high - d.high[j]) + (low - d.low[j]));
    row[j] = (j >= first) & (j < last) ? factor : 0.f;
  }
}

// columns += a b; the sum of the columns before `end`.
float gather_terms(const float* a, const float* b, int64_t count, int32_t end, float* columns) {
  float sum = 0.f;
#pragma omp simd reduction(+ : sum)
  for (int32_t j = 0; j < static_cast<int32_t>(count); j++) {
    columns[j] += a[j] * b[j];
    sum += j < end ? columns[j] : 0.f;
  }
  return sum;
}

// Rows i .. i + kRows - 1 of a triangle of the block's steps; they see steps before `columns`.
struct Strip {
  int64_t i, rows, columns, vectors;
};

Strip strip_of(const Block& block, int64_t i) {
  const int64_t rows = block.count - i < kRows ? block.count - i : kRows, columns = block.last[i + rows - 1];
  return {i, rows, columns, whole_vectors(columns)};
}

// What the heads of a task share: keys and queries of a block (T, N), and the products C_i B_j.
struct Shared {
  Panel B, C, across, scores;

  explicit Shared(const SSD& p)
      : B(kSteps, p.states), C(kSteps, p.states), across(B.width(), kSteps), scores(kSteps, kSteps) {}

  void stage(const SSD& p, const Place& place, const Block& block) {
    const int64_t N = p.states;
    for (int64_t t = 0; t < block.count; t++) {
      copy(at(p.B, place.row, block.begin + t) + place.group * N, N, B.row(t));
      copy(at(p.C, place.row, block.begin + t) + place.group * N, N, C.row(t));
    }
    transpose(B.all(), across.all(), kSteps, B.width());
    scores.clear();
    for (int64_t i = 0; i < block.count; i += kRows) {
      const Strip strip = strip_of(block, i);
      multiply(C.all().from(i, 0), across.all(), scores.all().from(i, 0), strip.rows, N, strip.vectors);
    }
  }
};

// States (states, width) of a task's heads from and to arrays (heads, width, states).
void stage_state(const SSD& p, const Place& place, const float* from, Panel& to) {
  const int64_t N = p.states, P = p.width;
  for (int64_t h = place.first; h < place.last; h++)
    for (int64_t n = 0; n < N; n++) {
      float* row = to.row((h - place.first) * N + n);
      for (int64_t k = 0; k < P; k++) row[k] = from ? from[((place.row * p.heads + h) * P + k) * N + n] : 0.f;
    }
}

void unstage_state(const SSD& p, const Place& place, const Panel& from, float* to) {
  const int64_t N = p.states, P = p.width;
  for (int64_t h = place.first; h < place.last; h++)
    for (int64_t n = 0; n < N; n++) {
      const float* row = from.row((h - place.first) * N + n);
      for (int64_t k = 0; k < P; k++) to[((place.row * p.heads + h) * P + k) * N + n] = row[k];
    }
}

float* border(const SSD& p, const Place& place, int64_t index, int64_t head) {
  return p.borders + ((place.row * blocks_of(p) + index) * p.heads + head) * p.states * p.width;
}

struct Forward {
  Shared shared;
  Panel state, x, y, products;

  explicit Forward(const SSD& p)
      : shared(p), state(kHeads * p.states, p.width), x(kSteps, p.width), y(kSteps, p.width),
        products(kSteps, kSteps) {}
};

void forward_head(const SSD& p, const Place& place, const Block& block, int64_t head, Forward& w) {
  const int64_t N = p.states, P = p.width, T = block.count, vectors = w.x.vectors();
  const Floats S = w.state.all().from((head - place.first) * N, 0);
  const Decays d = decays_of(p, place, block, head);
  for (int64_t t = 0; t < T; t++) scale(at(p.x, place.row, block.begin + t) + head * P, d.weight[t], P, w.x.row(t));
  clear(w.y.row(0), T * w.y.width());
  multiply(w.shared.C.all(), S, w.y.all(), T, N, vectors);
  for (int64_t t = 0; t < T; t++) scale(w.y.row(t), d.since[t], w.y.width(), w.y.row(t));
  for (int64_t i = 0; i < T; i += kRows) {
    const Strip strip = strip_of(block, i);
    for (int64_t r = i; r < i + strip.rows; r++) {
      within(block, d, r, strip.columns, w.products.row(r));
      scale_by(w.shared.scores.row(r), w.products.row(r), strip.columns, w.products.row(r));
    }
    multiply(w.products.all().from(i, 0), w.x.all(), w.y.all().from(i, 0), strip.rows, strip.columns, vectors);
  }
  for (int64_t t = 0; t < T; t++) {
    const int64_t step = block.begin + t;
    if (p.D) add_scaled_by(at(p.x, place.row, step) + head * P, p.D + head * P, P, w.y.row(t));
    copy(w.y.row(t), P, p.y + ((place.row * p.length + step) * p.heads + head) * P);
    scale(w.x.row(t), d.until[t], w.x.width(), w.x.row(t));
  }
  scale(S.data, d.through, N * S.down, S.data);
  multiply(w.shared.B.all().transposed(), w.x.all(), S, N, T, vectors);
}

void forward_task(const SSD& p, const Place& place, Forward& w) {
  const int64_t N = p.states, P = p.width, wide = p.heads * P, heads = place.last - place.first;
  stage_state(p, place, p.state, w.state);
  for (int64_t index = 0; index < blocks_of(p); index++) {
    const Block block = block_of(p, place.row, index);
    if (block.count) w.shared.stage(p, place, block);
    for (int64_t head = place.first; head < place.last; head++) {
      if (p.borders)
        for (int64_t n = 0; n < N; n++)
          copy(w.state.row((head - place.first) * N + n), P, border(p, place, index, head) + n * P);
      if (block.count) forward_head(p, place, block, head, w);
    }
  }
  for (int64_t t = length_of(p, place.row); t < p.length; t++)
    clear(p.y + (place.row * p.length + t) * wide + place.first * P, heads * P);
  unstage_state(p, place, w.state, p.final_state);
}

struct Backward {
  Shared shared;
  Panel g, S, x, x_across, dy, dy_since, dy_across, dx, factors, products, dproducts, dscores;
  Panel C_across, dB, dC, dB_across, dC_across, dC_of_head;
  float dl[kSteps];

  explicit Backward(const SSD& p)
      : shared(p), g(kHeads * p.states, p.width), S(p.states, p.width), x(kSteps, p.width),
        x_across(x.width(), kSteps), dy(kSteps, p.width), dy_since(kSteps, p.width), dy_across(x.width(), kSteps),
        dx(kSteps, p.width), factors(kSteps, kSteps), products(kSteps, kSteps), dproducts(kSteps, kSteps),
        dscores(kSteps, kSteps), C_across(shared.C.width(), kSteps), dB(kSteps, p.states), dC(kSteps, p.states),
        dB_across(dB.width(), kSteps), dC_across(dB.width(), kSteps), dC_of_head(p.states, kSteps) {}
};

// The inputs of a block and its gradients by the outputs, as they are and transposed.
void stage_back(const SSD& p, const Place& place, const Block& block, const Decays& d, int64_t index, int64_t head,
                Backward& w) {
  const int64_t N = p.states, P = p.width;
  for (int64_t n = 0; n < N; n++) copy(border(p, place, index, head) + n * P, P, w.S.row(n));
  for (int64_t t = 0; t < block.count; t++) {
    const int64_t step = block.begin + t;
    copy(p.grad_y + ((place.row * p.length + step) * p.heads + head) * P, P, w.dy.row(t));
    scale(at(p.x, place.row, step) + head * P, d.weight[t], P, w.x.row(t));
    scale(w.dy.row(t), d.since[t], w.dy.width(), w.dy_since.row(t));
  }
  transpose(w.x.all(), w.x_across.all(), kSteps, w.x.width());
  transpose(w.dy_since.all(), w.dy_across.all(), kSteps, w.x.width());
}

// What a head adds to the gradients by keys and queries, by the products C_i B_j, and by l but for the terms with the
// state after the block; `products` as in the forward pass.
void back_to_vectors(const SSD& p, const Place& place, const Block& block, const Decays& d, int64_t head, Backward& w) {
  const int64_t N = p.states, P = p.width, T = block.count, vectors = whole_vectors(T);
  float columns[kSteps] = {}, by_state[kSteps] = {};
  w.dproducts.clear();
  for (int64_t i = (T - 1) / kRows * kRows; i >= 0; i -= kRows) {
    const Strip strip = strip_of(block, i);
    multiply(w.dy.all().from(i, 0), w.x_across.all(), w.dproducts.all().from(i, 0), strip.rows, P, strip.vectors);
    for (int64_t r = i + strip.rows - 1; r >= i; r--) {
      within(block, d, r, strip.columns, w.factors.row(r));
      scale_by(w.shared.scores.row(r), w.factors.row(r), strip.columns, w.products.row(r));
      add_scaled_by(w.dproducts.row(r), w.factors.row(r), strip.columns, w.dscores.row(r));
      w.dl[r] = gather_terms(w.dproducts.row(r), w.products.row(r), strip.columns, block.instant[r], columns);
    }
  }
  for (int64_t k = 0; k < P; k++) scale_by(w.x_across.row(k), d.until, T, w.x_across.row(k));
  multiply(w.g.all().from((head - place.first) * N, 0), w.x_across.all(), w.dB_across.all(), N, P, vectors);
  w.dC_of_head.clear();
  multiply(w.S.all(), w.dy_across.all(), w.dC_of_head.all(), N, P, vectors);
  for (int64_t n = 0; n < N; n++) {
    const float* slope = w.dC_of_head.row(n);
    add_scaled_by(slope, w.C_across.row(n), T, by_state);
    add_to(slope, T, w.dC_across.row(n));
  }
  float sum = 0.f;
  for (int64_t t = T - 1; t >= 0; t--) w.dl[t] += sum += by_state[t];
}

void backward_head(const SSD& p, const Place& place, const Block& block, int64_t index, int64_t head, Backward& w) {
  const int64_t N = p.states, P = p.width, T = block.count, vectors = w.x.vectors();
  const Floats g = w.g.all().from((head - place.first) * N, 0);
  const Decays d = decays_of(p, place, block, head);
  stage_back(p, place, block, d, index, head, w);
  back_to_vectors(p, place, block, d, head, w);
  clear(w.dx.row(0), T * w.dx.width());
  multiply(w.shared.B.all(), g, w.dx.all(), T, N, vectors);
  float by_state = d.through * dot(g.data, w.S.row(0), N * g.down);
  for (int64_t t = 0; t < T; t++) {
    scale(w.dx.row(t), d.until[t], w.dx.width(), w.dx.row(t));
    w.dl[t] += by_state;
    by_state += dot(w.dx.row(t), w.x.row(t), P);
  }
  for (int64_t j = 0; j < T; j += kRows) {
    const int64_t rows = T - j < kRows ? T - j : kRows, first = j - j % p.rank;
    multiply(w.products.all().from(first, j).transposed(), w.dy.all().from(first, 0), w.dx.all().from(j, 0), rows,
             T - first, vectors);
  }
  scale(g.data, d.through, N * g.down, g.data);
  multiply(w.shared.C.all().transposed(), w.dy_since.all(), g, N, T, vectors);
  for (int64_t t = 0; t < T; t++) {
    const int64_t step = place.row * p.length + block.begin + t;
    const float *x = at(p.x, place.row, block.begin + t) + head * P, *dy = w.dy.row(t);
    float *dx = w.dx.row(t), *grad_D = p.grad_D + (place.row * p.heads + head) * P;
    p.grad_weight[step * p.heads + head] = dot(x, dx, P);
    scale(dx, d.weight[t], P, dx);
    if (p.D) add_scaled_by(dy, p.D + head * P, P, dx);
    if (p.D) add_scaled_by(dy, x, P, grad_D);
    copy(dx, P, p.grad_x + (step * p.heads + head) * P);
    p.grad_decay[step * p.heads + head] = w.dl[t];
  }
}

void backward_task(const SSD& p, const Place& place, Backward& w) {
  const int64_t N = p.states, P = p.width, H = p.heads, heads = place.last - place.first;
  const int64_t vectors = w.dB.vectors();
  float* grad_B = p.grad_B + (place.part * p.batch + place.row) * p.length * N;
  float* grad_C = p.grad_C + (place.part * p.batch + place.row) * p.length * N;
  stage_state(p, place, p.grad_final, w.g);
  clear(p.grad_D + (place.row * H + place.first) * P, heads * P);
  for (int64_t t = length_of(p, place.row); t < p.length; t++) {
    const int64_t step = place.row * p.length + t;
    clear(p.grad_x + (step * H + place.first) * P, heads * P);
    clear(p.grad_weight + step * H + place.first, heads);
    clear(p.grad_decay + step * H + place.first, heads);
    clear(grad_B + t * N, N);
    clear(grad_C + t * N, N);
  }
  for (int64_t index = blocks_of(p) - 1; index >= 0; index--) {
    const Block block = block_of(p, place.row, index);
    const int64_t T = block.count;
    if (T == 0) continue;
    w.shared.stage(p, place, block);
    w.dscores.clear();
    transpose(w.shared.C.all(), w.C_across.all(), kSteps, w.shared.C.width());
    w.dB_across.clear();
    w.dC_across.clear();
    for (int64_t head = place.first; head < place.last; head++) backward_head(p, place, block, index, head, w);
    transpose(w.dB_across.all(), w.dB.all(), w.dB.width(), kSteps);
    transpose(w.dC_across.all(), w.dC.all(), w.dC.width(), kSteps);
    multiply(w.dscores.all(), w.shared.B.all(), w.dC.all(), T, T, vectors);
    multiply(w.dscores.all().transposed(), w.shared.C.all(), w.dB.all(), T, T, vectors);
    for (int64_t t = 0; t < T; t++) {
      copy(w.dB.row(t), N, grad_B + (block.begin + t) * N);
      copy(w.dC.row(t), N, grad_C + (block.begin + t) * N);
    }
  }
  unstage_state(p, place, w.g, p.grad_state);
}

}  // namespace

extern "C" {

int64_t JOIN(longstate_ssd_tiles_, ISA)(int64_t heads, int64_t groups) {
  return (heads / groups + kHeads - 1) / kHeads;
}

void JOIN(longstate_ssd_forward_, ISA)(const SSD* p, int64_t begin, int64_t end) {
  Forward work(*p);
  for (int64_t task = begin; task < end; task++) forward_task(*p, place_of(*p, task), work);
}

void JOIN(longstate_ssd_backward_, ISA)(const SSD* p, int64_t begin, int64_t end) {
  Backward work(*p);
  for (int64_t task = begin; task < end; task++) backward_task(*p, place_of(*p, task), work);
}
}
