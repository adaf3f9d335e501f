// A linear time-invariant system over a sequence, forward and backward; compiled once for every instruction set.
//
//   s_t = A s_{t-1} + B u_t,    y_t = C s_t + D u_t
//
// by chunks of T elements with the state s before each of them:
//
//   y_t = sum_{l <= t} taps_l u_{t-l} + rows_t s,    s' = carry s + sum_t columns_t u_t
//
// with taps_l = C A^l B (+ D), rows_t = C A^{t+1}, columns_t = A^{T-1-t} B, carry = A^T, all in real numbers. A task is
// a tile of kLanes features of one row of the batch; all of its factors, and a group of chunks, stay in the second-level
// cache. Every sum but that of carry is a product of matrices in each lane. The forward pass keeps the states between
// groups; the backward pass goes through the groups in reverse and computes what is inside them again.
#include "lanes.h"
#include "longstate.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

namespace {

constexpr int64_t kGroup = 16;  // chunks
constexpr int64_t kGuard = 8;   // zeros before the taps and before the inputs of a chunk

struct Place {
  int64_t row, first, lanes;  // features first .. first + lanes - 1
};

Place place_of(const LTIScan& p, int64_t tile, int64_t row) {
  const int64_t first = tile * kLanes, left = p.features - first;
  return {row, first, left < kLanes ? left : kLanes};
}

int64_t groups_of(const LTIScan& p) { return (p.length + kGroup * p.chunk - 1) / (kGroup * p.chunk); }
int64_t carry_rows(const LTIScan& p) { return p.kind == kDense ? p.states : 1; }

// A matrix in memory of our own. Its rows are one vector longer than they need be: rows that lie a power of two apart
// would share a few places of the first-level cache. `guard` zeros stand before each of them.
class Block {
 public:
  const int64_t rows, columns;
  Block(int64_t rows, int64_t columns, int64_t guard = 0)
      : rows(rows), columns(columns), guard_(guard), down_(columns + guard + 1), all_(rows * down_) {}

  Matrix from_row(int64_t i) const { return {row(i), down_, 1}; }
  Matrix transposed_from(int64_t i) const { return {row(i), 1, down_}; }
  vec* row(int64_t i) const { return all_.at(i * down_ + guard_); }
  void clear() { all_.clear(); }

  // From and to arrays (rows, columns, features).
  void read(const float* from, int64_t features, const Place& at) {
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = 0; j < columns; j++)
        row(i)[j] = load(from + (i * columns + j) * features + at.first, at.lanes);
  }
  void write(float* to, int64_t features, const Place& at) const {
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = 0; j < columns; j++)
        store(row(i)[j], to + (i * columns + j) * features + at.first, at.lanes);
  }

 private:
  int64_t guard_, down_;
  Vectors all_;
};

// The factors of a tile of features, or the gradients by them.
struct Factors {
  Block taps, rows, columns, carry;

  explicit Factors(const LTIScan& p)
      : taps(p.channels, p.chunk, kGuard), rows(p.channels * p.chunk, p.states), columns(p.chunk, p.states),
        carry(carry_rows(p), p.states) {}

  void read(const LTIScan& p, const Place& at) {
    taps.read(p.taps, p.features, at);
    rows.read(p.rows, p.features, at);
    columns.read(p.columns, p.features, at);
    carry.read(p.carry, p.features, at);
  }
  void clear() {
    taps.clear();
    rows.clear();
    columns.clear();
    carry.clear();
  }

  // taps_{t-l} at (l, t), and its transpose: a chunk's own outputs from its inputs.
  Matrix toeplitz(int64_t channel) const { return {taps.row(channel), -1, 1}; }
  Matrix toeplitz_transposed(int64_t channel) const { return {taps.row(channel), 1, -1}; }
};

// The chunks of a group of one row, as far as the row is valid.
struct Group {
  int64_t begin, valid, end, chunks;  // first element, how many are valid, the first of the next group, chunks of them
  bool is_last;                       // whether the row's last chunk is among them
};

Group group_of(const LTIScan& p, const Place& at, int64_t index) {
  const int64_t length = p.lengths ? p.lengths[at.row] : p.length, size = kGroup * p.chunk;
  const int64_t begin = index * size, end = begin + size < p.length ? begin + size : p.length;
  const int64_t left = (end < length ? end : length) - begin, valid = left > 0 ? left : 0;
  return {begin, valid, end, (valid + p.chunk - 1) / p.chunk, valid > 0 && begin + valid == length};
}

// Elements of a group as chunks: zeros after the valid ones.
void stage(const float* from, int64_t time_stride, const Group& group, int64_t lanes, Block& to) {
  const int64_t T = to.columns;
  for (int64_t i = 0; i < group.chunks; i++) {
    const int64_t left = group.valid - i * T, count = left < T ? left : T;
    vec* row = to.row(i);
    for (int64_t t = 0; t < count; t++) row[t] = load(from + (i * T + t) * time_stride, lanes);
    for (int64_t t = count; t < T; t++) row[t] = zero();
  }
}

void unstage(const Block& from, const Group& group, int64_t lanes, float* to, int64_t time_stride) {
  const int64_t T = from.columns;
  for (int64_t i = 0; i < group.chunks; i++)
    for (int64_t t = 0; t < T && i * T + t < group.valid; t++)
      store(from.row(i)[t], to + (i * T + t) * time_stride, lanes);
  for (int64_t t = group.valid; t < group.end - group.begin; t++) store(zero(), to + t * time_stride, lanes);
}

const float* inputs(const LTIScan& p, const Place& at, const Group& group) {
  return p.u.data + at.row * p.u.batch_stride + group.begin * p.u.time_stride + at.first;
}

// after += carry before
void carry_over(const LTIScan& p, const Block& carry, const vec* before, vec* after) {
  const int64_t N = p.states;
  const vec* a = carry.row(0);
  if (p.kind == kReal)
    for (int64_t n = 0; n < N; n++) after[n] += a[n] * before[n];
  else if (p.kind == kComplex)
    for (int64_t n = 0; n < N; n += 2) {
      after[n] += a[n] * before[n] - a[n + 1] * before[n + 1];
      after[n + 1] += a[n] * before[n + 1] + a[n + 1] * before[n];
    }
  else
    add_product({const_cast<vec*>(before), N, 1}, carry.transposed_from(0), {after, N, 1}, 1, N, N);
}

// With g the gradient by the state after a chunk: back += carry^T g, and what the step adds to the gradient by a diagonal
// carry; that by a matrix is a product over all chunks of a group.
void carry_back(const LTIScan& p, const Block& carry, const vec* before, const vec* g, vec* back, Block& slope) {
  const int64_t N = p.states;
  const vec* a = carry.row(0);
  vec* d = slope.row(0);
  if (p.kind == kReal) {
    for (int64_t n = 0; n < N; n++) {
      d[n] += g[n] * before[n];
      back[n] += a[n] * g[n];
    }
  } else if (p.kind == kComplex) {
    for (int64_t n = 0; n < N; n += 2) {
      d[n] += g[n] * before[n] + g[n + 1] * before[n + 1];
      d[n + 1] += g[n + 1] * before[n] - g[n] * before[n + 1];
      back[n] += a[n] * g[n] + a[n + 1] * g[n + 1];
      back[n + 1] += a[n] * g[n + 1] - a[n + 1] * g[n];
    }
  } else {
    add_product({const_cast<vec*>(g), N, 1}, carry.from_row(0), {back, N, 1}, 1, N, N);
  }
}

// States before every chunk of a group, and after the last of them, from that in row 0.
void states_of(const LTIScan& p, const Factors& f, const Block& u, Block& s, int64_t count) {
  const int64_t N = p.states;
  std::memset(static_cast<void*>(s.row(1)), 0, (s.row(count + 1) - s.row(1)) * sizeof(vec));
  add_product(u.from_row(0), f.columns.from_row(0), s.from_row(1), count, p.chunk, N);
  for (int64_t i = 0; i < count; i++) carry_over(p, f.carry, s.row(i), s.row(i + 1));
}

struct Forward {
  Factors factors;
  Block u, s, y;
  explicit Forward(const LTIScan& p)
      : factors(p), u(kGroup, p.chunk, kGuard), s(kGroup + 2, p.states), y(kGroup, p.chunk) {}
};

void forward_row(const LTIScan& p, const Place& at, Forward& w) {
  const int64_t T = p.chunk, N = p.states, H = p.features, groups = groups_of(p), wide = p.channels * H;
  for (int64_t n = 0; n < N; n++)
    w.s.row(0)[n] = p.state ? load(p.state + (at.row * N + n) * H + at.first, at.lanes) : zero();
  for (int64_t index = 0; index < groups; index++) {
    const Group group = group_of(p, at, index);
    if (p.borders)
      for (int64_t n = 0; n < N; n++)
        store(w.s.row(0)[n], p.borders + ((index * p.batch + at.row) * N + n) * H + at.first, at.lanes);
    stage(inputs(p, at, group), p.u.time_stride, group, at.lanes, w.u);
    if (group.chunks) states_of(p, w.factors, w.u, w.s, group.is_last ? group.chunks - 1 : group.chunks);
    for (int64_t c = 0; c < p.channels; c++) {
      w.y.clear();
      add_product(w.u.from_row(0), w.factors.toeplitz(c), w.y.from_row(0), group.chunks, T, T, Inner::until_column);
      add_product(w.s.from_row(0), w.factors.rows.transposed_from(c * T), w.y.from_row(0), group.chunks, N, T);
      unstage(w.y, group, at.lanes, p.y + (at.row * p.length + group.begin) * wide + c * H + at.first, wide);
    }
    if (group.chunks == 0) continue;
    const vec* next = w.s.row(group.is_last ? group.chunks - 1 : group.chunks);
    std::memmove(static_cast<void*>(w.s.row(0)), next, N * sizeof(vec));
  }
  for (int64_t n = 0; n < N; n++) store(w.s.row(0)[n], p.last + (at.row * N + n) * H + at.first, at.lanes);
}

// taps' gradient of one channel: sum over chunks and t of dy_t u_{t-l}, eight lags at a time.
void correlate(const Block& dy, const Block& u, int64_t chunks, vec* slope) {
  const int64_t T = u.columns;
  for (int64_t l = 0; l < T; l += 8) {
    vec sum[8] = {};
    for (int64_t i = 0; i < chunks; i++) {
      const vec *out = dy.row(i), *in = u.row(i);
      for (int64_t t = l; t < T; t++)
        for (int q = 0; q < 8; q++) sum[q] += out[t] * in[t - l - q];
    }
    for (int q = 0; q < 8 && l + q < T; q++) slope[l + q] += sum[q];
  }
}

struct Backward {
  Factors factors, slopes;
  Block u, s, dy, du, ds, driven;
  Vectors g, old;
  explicit Backward(const LTIScan& p)
      : factors(p), slopes(p), u(kGroup, p.chunk, kGuard), s(kGroup + 2, p.states), dy(kGroup, p.chunk),
        du(kGroup, p.chunk), ds(kGroup, p.states), driven(kGroup, p.states), g(p.states), old(p.states) {}
};

void backward_row(const LTIScan& p, const Place& at, Backward& w) {
  const int64_t T = p.chunk, N = p.states, H = p.features, groups = groups_of(p), wide = p.channels * H;
  vec* g = w.g.at(0);
  bool begun = false;
  for (int64_t n = 0; n < N; n++) g[n] = load(p.grad_last + (at.row * N + n) * H + at.first, at.lanes);
  for (int64_t index = groups - 1; index >= 0; index--) {
    const Group group = group_of(p, at, index);
    w.du.clear();
    if (group.chunks) {
      for (int64_t n = 0; n < N; n++)
        w.s.row(0)[n] = load(p.borders + ((index * p.batch + at.row) * N + n) * H + at.first, at.lanes);
      stage(inputs(p, at, group), p.u.time_stride, group, at.lanes, w.u);
      states_of(p, w.factors, w.u, w.s, group.chunks - 1);
      w.ds.clear();
      for (int64_t c = 0; c < p.channels; c++) {
        const int64_t place = (at.row * p.length + group.begin) * wide + c * H + at.first;
        stage(p.grad_y + place, wide, group, at.lanes, w.dy);
        add_product(w.dy.from_row(0), w.factors.toeplitz_transposed(c), w.du.from_row(0), group.chunks, T, T,
                    Inner::from_column);
        add_product(w.dy.from_row(0), w.factors.rows.from_row(c * T), w.ds.from_row(0), group.chunks, T, N);
        add_product(w.dy.transposed_from(0), w.s.from_row(0), w.slopes.rows.from_row(c * T), T, group.chunks, N);
        correlate(w.dy, w.u, group.chunks, w.slopes.taps.row(c));
      }
      for (int64_t i = group.chunks - 1; i >= 0; i--) {
        vec *ds = w.ds.row(i), *driven = w.driven.row(i);
        if (!begun) {  // nothing comes after a row's last chunk; g is what is asked of the state before it
          for (int64_t n = 0; n < N; n++) {
            driven[n] = zero();
            g[n] += ds[n];
          }
          begun = true;
          continue;
        }
        std::memcpy(static_cast<void*>(driven), g, N * sizeof(vec));
        carry_back(p, w.factors.carry, w.s.row(i), driven, ds, w.slopes.carry);
        std::memcpy(static_cast<void*>(g), ds, N * sizeof(vec));
      }
      add_product(w.driven.from_row(0), w.factors.columns.transposed_from(0), w.du.from_row(0), group.chunks, N, T);
      if (p.kind == kDense)
        add_product(w.driven.transposed_from(0), w.s.from_row(0), w.slopes.carry.from_row(0), N, group.chunks, N);
      add_product(w.u.transposed_from(0), w.driven.from_row(0), w.slopes.columns.from_row(0), T, group.chunks, N);
    }
    unstage(w.du, group, at.lanes, p.grad_u + (at.row * p.length + group.begin) * H + at.first, H);
  }
  for (int64_t n = 0; n < N; n++) store(g[n], p.grad_state + (at.row * N + n) * H + at.first, at.lanes);
}

}  // namespace

extern "C" {

int64_t JOIN(longstate_lanes_, ISA)() { return kLanes; }
int64_t JOIN(longstate_lti_group_, ISA)() { return kGroup; }

// A task is a tile of one row.
void JOIN(longstate_lti_forward_, ISA)(const LTIScan* p, int64_t begin, int64_t end) {
  Forward work(*p);
  int64_t tile = -1;
  for (int64_t task = begin; task < end; task++) {
    const Place at = place_of(*p, task / p->batch, task % p->batch);
    if (task / p->batch != tile) work.factors.read(*p, at);
    tile = task / p->batch;
    forward_row(*p, at, work);
  }
}

// A task is a tile of the rows of one part.
void JOIN(longstate_lti_backward_, ISA)(const LTIScan* p, int64_t begin, int64_t end) {
  Backward work(*p);
  for (int64_t task = begin; task < end; task++) {
    const int64_t part = task % p->parts, all = p->channels * p->chunk, H = p->features;
    const Place tile = place_of(*p, task / p->parts, 0);
    work.factors.read(*p, tile);
    work.slopes.clear();
    for (int64_t row = part; row < p->batch; row += p->parts) backward_row(*p, {row, tile.first, tile.lanes}, work);
    work.slopes.taps.write(p->grad_taps + part * all * H, H, tile);
    work.slopes.rows.write(p->grad_rows + part * all * p->states * H, H, tile);
    work.slopes.columns.write(p->grad_columns + part * p->chunk * p->states * H, H, tile);
    work.slopes.carry.write(p->grad_carry + part * carry_rows(*p) * p->states * H, H, tile);
  }
}
}
