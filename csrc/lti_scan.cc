// A linear time-invariant system over a sequence, forward and backward; compiled once for every instruction set.
//
//   s_t = A s_{t-1} + B u_t,    y_t = C s_t + D u_t
//
// by chunks of T elements with the state s before each of them:
//
//   y_t = sum_{l <= t} taps_l u_{t-l} + rows_t s,    s' = carry s + sum_t columns_t u_t
//
// with taps_l = C A^l B (+ D), rows_t = C A^{t+1}, columns_t = A^{T-1-t} B, carry = A^T, all in real numbers. A task is
// a tile of kLanes features; all of its factors, and a group of chunks, stay in the second-level cache. Every sum is a
// product of matrices in each lane, whose rows are the chunks of a group: chunks of one row of the batch after each
// other, or, where there are few of those or the carry is a matrix, of several rows beside each other. The forward pass
// keeps states between chunks; the backward pass goes through the groups in reverse and computes what is inside them
// again.
#include "lanes.h"
#include "longstate.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

namespace {

constexpr int64_t kGroup = 16;       // chunks in a group, of all its rows
constexpr int64_t kTogether = 4;     // rows that share a product with a carry that is a matrix
constexpr int64_t kDenseBorder = 4;  // chunks between states that are kept, where the carry is a matrix
constexpr int64_t kGuard = 8;        // zeros before the taps and before the inputs of a chunk

int64_t border_of(int32_t kind) { return kind == kDense ? kDenseBorder : kGroup; }
int64_t chunks_of(const LTIScan& p) { return (p.length + p.chunk - 1) / p.chunk; }
int64_t carry_rows(const LTIScan& p) { return p.kind == kDense ? p.states : 1; }

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// How groups are made of `batch` rows: so many rows, and so many chunks of each.
struct Shape {
  int64_t rows, chunks;
  Shape(const LTIScan& p, int64_t batch) {
    const int64_t border = border_of(p.kind), together = p.kind == kDense && batch ? least(batch, kTogether) : 1;
    chunks = kGroup / together / border * border;
    const int64_t few = least(chunks, chunks_of(p));
    rows = few ? least(kGroup / few, batch) : batch;
  }
};

// Features first .. first + lanes - 1 of the rows of the batch row, row + step, ...
struct Place {
  int64_t first, lanes, row, step, rows;
  int64_t row_at(int64_t r) const { return row + r * step; }
};

Place place_of(const LTIScan& p, int64_t tile) {
  const int64_t first = tile * kLanes;
  return {first, least(kLanes, p.features - first), 0, 1, 0};
}

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

// Chunks of every row of a place. Row r of the place has its chunk i in line i * rows + r of a block.
struct Group {
  int64_t index, begin, end, chunks, T;  // first chunk, first element, the first after it, how many chunks of T
  const Place& at;
  const LTIScan& p;

  Group(const LTIScan& p, const Place& at, const Shape& shape, int64_t number)
      : index(number * shape.chunks), begin(index * p.chunk), T(p.chunk), at(at), p(p) {
    chunks = least(shape.chunks, chunks_of(p) - index);
    end = least(begin + chunks * T, p.length);
  }
  int64_t lines() const { return chunks * at.rows; }
  bool is_last() const { return end == p.length; }
  int64_t length(int64_t r) const { return p.lengths ? p.lengths[at.row_at(r)] : p.length; }
  // How many elements of chunk i are valid.
  int64_t valid(int64_t r, int64_t i) const {
    const int64_t left = length(r) - begin - i * T;
    return left < 0 ? 0 : least(left, T);
  }
  // The row's last chunk, counted from this group's first; negative if it came before.
  int64_t last(int64_t r) const { return length(r) > 0 ? (length(r) - 1) / T - index : -1; }
};

// `count` elements of a chunk, and zeros up to T.
void stage_line(const float* from, int64_t time_stride, int64_t lanes, int64_t count, int64_t T, vec* line) {
  for (int64_t t = 0; t < count; t++) line[t] = load(from + t * time_stride, lanes);
  for (int64_t t = count; t < T; t++) line[t] = zero();
}

void unstage_line(const vec* line, int64_t count, int64_t T, int64_t lanes, float* to, int64_t time_stride) {
  for (int64_t t = 0; t < count; t++) store(line[t], to + t * time_stride, lanes);
  for (int64_t t = count; t < T; t++) store(zero(), to + t * time_stride, lanes);
}

// Elements of a group as lines: zeros after the valid ones.
void stage(const Group& group, const float* from, int64_t row_stride, int64_t time_stride, Block& to) {
  for (int64_t i = 0; i < group.chunks; i++)
    for (int64_t r = 0; r < group.at.rows; r++) {
      const float* data = from + group.at.row_at(r) * row_stride + (group.begin + i * group.T) * time_stride;
      stage_line(data, time_stride, group.at.lanes, group.valid(r, i), group.T, to.row(i * group.at.rows + r));
    }
}

void unstage(const Group& group, const Block& from, float* to, int64_t row_stride, int64_t time_stride) {
  for (int64_t i = 0; i < group.chunks; i++)
    for (int64_t r = 0; r < group.at.rows; r++) {
      const int64_t begin = group.begin + i * group.T, T = least(group.T, group.end - begin);
      float* data = to + group.at.row_at(r) * row_stride + begin * time_stride;
      unstage_line(from.row(i * group.at.rows + r), group.valid(r, i), T, group.at.lanes, data, time_stride);
    }
}

// States (batch, states, features) of one row, or zeros if there are none.
void read_states(const LTIScan& p, const Place& at, const float* from, int64_t r, vec* to) {
  for (int64_t n = 0; n < p.states; n++)
    to[n] = from ? load(from + (at.row_at(r) * p.states + n) * p.features + at.first, at.lanes) : zero();
}

void write_states(const LTIScan& p, const Place& at, const vec* from, int64_t r, float* to) {
  for (int64_t n = 0; n < p.states; n++)
    store(from[n], to + (at.row_at(r) * p.states + n) * p.features + at.first, at.lanes);
}

// The states before chunk i of a group, where they are kept.
float* border(const LTIScan& p, const Group& group, int64_t i) {
  return p.borders + (group.index + i) / border_of(p.kind) * p.batch * p.states * p.features;
}

// after += carry before, for so many lines.
void carry_over(const LTIScan& p, const Block& carry, const Block& s, int64_t line, int64_t rows) {
  const int64_t N = p.states;
  const vec* a = carry.row(0);
  if (p.kind == kDense)
    return add_product(s.from_row(line), carry.transposed_from(0), s.from_row(line + rows), rows, N, N);
  for (int64_t r = 0; r < rows; r++) {
    const vec* before = s.row(line + r);
    vec* after = s.row(line + rows + r);
    if (p.kind == kReal) {
      for (int64_t n = 0; n < N; n++) after[n] += a[n] * before[n];
      continue;
    }
    for (int64_t n = 0; n < N; n += 2) {
      after[n] += a[n] * before[n] - a[n + 1] * before[n + 1];
      after[n + 1] += a[n] * before[n + 1] + a[n + 1] * before[n];
    }
  }
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
    return;
  }
  for (int64_t n = 0; n < N; n += 2) {
    d[n] += g[n] * before[n] + g[n + 1] * before[n + 1];
    d[n + 1] += g[n + 1] * before[n] - g[n] * before[n + 1];
    back[n] += a[n] * g[n] + a[n + 1] * g[n + 1];
    back[n + 1] += a[n] * g[n + 1] - a[n + 1] * g[n];
  }
}

// States before every chunk of a group but the first, from those before it; and after the last unless nobody asks.
void states_of(const LTIScan& p, const Factors& f, const Group& group, const Block& u, Block& s, bool to_the_end) {
  const int64_t R = group.at.rows, steps = to_the_end ? group.chunks : group.chunks - 1;
  product(u.from_row(0), f.columns.from_row(0), s.from_row(R), steps * R, p.chunk, p.states);
  for (int64_t i = 0; i < steps; i++) carry_over(p, f.carry, s, i * R, R);
}

struct Forward {
  Factors factors;
  Block u, s, y;
  explicit Forward(const LTIScan& p)
      : factors(p), u(kGroup, p.chunk, kGuard), s(2 * kGroup, p.states), y(kGroup, p.chunk) {}
};

void keep_states(const LTIScan& p, const Group& group, const Block& s) {
  const int64_t R = group.at.rows;
  for (int64_t r = 0; r < R; r++) {
    for (int64_t i = 0; p.borders && i < group.chunks; i += border_of(p.kind))
      write_states(p, group.at, s.row(i * R + r), r, border(p, group, i));
    const int64_t last = group.last(r);
    if (last < 0 && group.index == 0) write_states(p, group.at, s.row(r), r, p.last);
    if (last >= 0 && last < group.chunks) write_states(p, group.at, s.row(last * R + r), r, p.last);
  }
}

void forward_rows(const LTIScan& p, const Place& at, const Shape& shape, Forward& w) {
  const int64_t T = p.chunk, N = p.states, H = p.features, wide = p.channels * H;
  for (int64_t r = 0; r < at.rows; r++) read_states(p, at, p.state, r, w.s.row(r));
  for (int64_t number = 0; number * shape.chunks < chunks_of(p); number++) {
    const Group group(p, at, shape, number);
    stage(group, p.u.data + at.first, p.u.batch_stride, p.u.time_stride, w.u);
    states_of(p, w.factors, group, w.u, w.s, !group.is_last());
    keep_states(p, group, w.s);
    for (int64_t c = 0; c < p.channels; c++) {
      product(w.u.from_row(0), w.factors.toeplitz(c), w.y.from_row(0), group.lines(), T, T, Inner::until_column);
      add_product(w.s.from_row(0), w.factors.rows.transposed_from(c * T), w.y.from_row(0), group.lines(), N, T);
      unstage(group, w.y, p.y + c * H + at.first, p.length * wide, wide);
    }
    for (int64_t r = 0; r < at.rows && !group.is_last(); r++)
      std::memcpy(static_cast<void*>(w.s.row(r)), w.s.row(group.lines() + r), N * sizeof(vec));
  }
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
  Block u, s, dy, du, ds, driven, g;
  explicit Backward(const LTIScan& p)
      : factors(p), slopes(p), u(kGroup, p.chunk, kGuard), s(2 * kGroup, p.states), dy(kGroup, p.chunk),
        du(kGroup, p.chunk), ds(kGroup, p.states), driven(kGroup, p.states), g(kGroup, p.states) {}
};

// From ds, the gradients by the states before the chunks through their own outputs: `driven`, those by the states after
// them, and g, in the end that by the states before the group. Nothing comes after a row's last chunk, and g is until
// then what is asked of the state before it.
void retreat(const LTIScan& p, const Group& group, Backward& w) {
  const int64_t N = p.states, R = group.at.rows, size = N * sizeof(vec);
  for (int64_t i = group.chunks - 1; i >= 0; i--) {
    for (int64_t r = 0; r < R; r++) {
      vec *g = w.g.row(r), *driven = w.driven.row(i * R + r), *ds = w.ds.row(i * R + r);
      const bool goes_on = i < group.last(r);
      for (int64_t n = 0; n < N; n++) driven[n] = goes_on ? g[n] : zero();
      if (!goes_on)
        for (int64_t n = 0; n < N; n++) ds[n] += g[n];
      else if (p.kind != kDense)
        carry_back(p, w.factors.carry, w.s.row(i * R + r), driven, ds, w.slopes.carry);
    }
    if (p.kind == kDense)
      add_product(w.driven.from_row(i * R), w.factors.carry.from_row(0), w.ds.from_row(i * R), R, N, N);
    for (int64_t r = 0; r < R; r++) std::memcpy(static_cast<void*>(w.g.row(r)), w.ds.row(i * R + r), size);
  }
}

void backward_rows(const LTIScan& p, const Place& at, const Shape& shape, Backward& w) {
  const int64_t T = p.chunk, N = p.states, H = p.features, wide = p.channels * H;
  for (int64_t r = 0; r < at.rows; r++) read_states(p, at, p.grad_last, r, w.g.row(r));
  for (int64_t number = (chunks_of(p) + shape.chunks - 1) / shape.chunks - 1; number >= 0; number--) {
    const Group group(p, at, shape, number);
    const int64_t lines = group.lines();
    for (int64_t r = 0; r < at.rows; r++)  // of a row that has ended nothing is kept
      read_states(p, at, group.last(r) >= 0 ? border(p, group, 0) : nullptr, r, w.s.row(r));
    stage(group, p.u.data + at.first, p.u.batch_stride, p.u.time_stride, w.u);
    states_of(p, w.factors, group, w.u, w.s, false);
    for (int64_t c = 0; c < p.channels; c++) {
      const Matrix dy = w.dy.from_row(0), du = w.du.from_row(0), ds = w.ds.from_row(0);
      stage(group, p.grad_y + c * H + at.first, p.length * wide, wide, w.dy);
      (c ? add_product<vec> : product<vec>)(dy, w.factors.toeplitz_transposed(c), du, lines, T, T, Inner::from_column);
      (c ? add_product<vec> : product<vec>)(dy, w.factors.rows.from_row(c * T), ds, lines, T, N, Inner::all);
      add_product(w.dy.transposed_from(0), w.s.from_row(0), w.slopes.rows.from_row(c * T), T, lines, N);
      correlate(w.dy, w.u, lines, w.slopes.taps.row(c));
    }
    retreat(p, group, w);
    add_product(w.driven.from_row(0), w.factors.columns.transposed_from(0), w.du.from_row(0), lines, N, T);
    if (p.kind == kDense)
      add_product(w.driven.transposed_from(0), w.s.from_row(0), w.slopes.carry.from_row(0), N, lines, N);
    add_product(w.u.transposed_from(0), w.driven.from_row(0), w.slopes.columns.from_row(0), T, lines, N);
    unstage(group, w.du, p.grad_u + at.first, p.length * H, H);
  }
  for (int64_t r = 0; r < at.rows; r++) write_states(p, at, w.g.row(r), r, p.grad_state);
}

}  // namespace

extern "C" {

int64_t JOIN(longstate_lanes_, ISA)() { return kLanes; }
int64_t JOIN(longstate_lti_border_, ISA)(int32_t kind) { return border_of(kind); }

int64_t JOIN(longstate_lti_tasks_, ISA)(const LTIScan* p) {
  const int64_t rows = Shape(*p, p->batch).rows, tiles = (p->features + kLanes - 1) / kLanes;
  return rows ? tiles * ((p->batch + rows - 1) / rows) : 0;
}

// A task is a tile of the rows of one group.
void JOIN(longstate_lti_forward_, ISA)(const LTIScan* p, int64_t begin, int64_t end) {
  Forward work(*p);
  const Shape shape(*p, p->batch);
  const int64_t blocks = (p->batch + shape.rows - 1) / shape.rows;
  for (int64_t task = begin; task < end; task++) {
    Place at = place_of(*p, task / blocks);
    if (task == begin || task % blocks == 0) work.factors.read(*p, at);
    at.row = task % blocks * shape.rows;
    at.rows = least(shape.rows, p->batch - at.row);
    forward_rows(*p, at, shape, work);
  }
}

// A task is a tile of the rows of one part.
void JOIN(longstate_lti_backward_, ISA)(const LTIScan* p, int64_t begin, int64_t end) {
  Backward work(*p);
  for (int64_t task = begin; task < end; task++) {
    const int64_t part = task % p->parts, all = p->channels * p->chunk, H = p->features;
    const int64_t batch = (p->batch - part + p->parts - 1) / p->parts;  // rows of this part
    const Shape shape(*p, batch);
    Place at = place_of(*p, task / p->parts);
    work.factors.read(*p, at);
    work.slopes.clear();
    at.step = p->parts;
    for (int64_t first = 0; first < batch; first += shape.rows) {
      at.row = part + first * p->parts;
      at.rows = least(shape.rows, batch - first);
      backward_rows(*p, at, shape, work);
    }
    work.slopes.taps.write(p->grad_taps + part * all * H, H, at);
    work.slopes.rows.write(p->grad_rows + part * all * p->states * H, H, at);
    work.slopes.columns.write(p->grad_columns + part * p->chunk * p->states * H, H, at);
    work.slopes.carry.write(p->grad_carry + part * carry_rows(*p) * p->states * H, H, at);
  }
}
}
