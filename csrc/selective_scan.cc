// The selective scan of Mamba, forward and backward; compiled once for every instruction set (ISA names it).
//
//   h_t = exp(D_t A) h_{t-1} + D_t B_t u_t,    y_t = (C_t h_t + D u_t) silu(z_t),    D_t = softplus(dt_t + dt_bias)
//
// A task is one tile of kTile channels of one row of the batch, in vectors of kLanes that lie beside each other. Blocks
// of kBlock steps are staged, lanes that a last tile lacks being zero; then kHigh states of one vector go through all
// steps of the block, in registers, before the next ones do. Up to kTogether tiles go through a block before the next
// one, so that neighbours read a row's pages after each other. The forward pass keeps the states between blocks; the
// backward pass goes through the blocks in reverse and computes what is inside them again, which for kHigh states of a
// vector stays in the first-level cache. The file is long because the passes share what each of them stages.
#include <deque>

#include "lanes_math.h"
#include "longstate.h"
#include "products.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

namespace {

constexpr int64_t kTile = 64;
constexpr int64_t kBlock = 24;  // with what 4 states of a vector need for so many steps the first-level cache is full
constexpr int64_t kTogether = 32;
constexpr int64_t kVectors = kTile / kLanes;

struct Tile {
  int64_t row, group, first, lanes;  // channels first .. first + lanes - 1
  int64_t vectors() const { return whole_vectors(lanes); }
  int64_t lanes_of(int64_t v) const { return lanes - v * kLanes < kLanes ? lanes - v * kLanes : kLanes; }
};

int64_t tiles_of_group(const SelectiveScan& p) { return (p.channels / p.groups + kTile - 1) / kTile; }

Tile tile_of(const SelectiveScan& p, int64_t task) {
  const int64_t in_group = tiles_of_group(p), width = p.channels / p.groups;
  const int64_t tiles = in_group * p.groups;
  const int64_t tile = task % tiles, group = tile / in_group, place = tile % in_group * kTile;
  return {task / tiles, group, group * width + place, width - place < kTile ? width - place : kTile};
}

// Elements of a tile that are one block: first, how many are valid, and how many there are.
struct Block {
  int64_t index, begin, count, size;
};

int64_t blocks_of(const SelectiveScan& p) { return (p.length + kBlock - 1) / kBlock; }

Block block_of(const SelectiveScan& p, const Tile& tile, int64_t index) {
  const int64_t begin = index * kBlock, left = p.length - begin, size = left < kBlock ? left : kBlock;
  const int64_t valid = (p.lengths ? p.lengths[tile.row] : p.length) - begin;
  return {index, begin, valid < 0 ? 0 : valid < size ? valid : size, size};
}

const uint8_t* starts_of(const SelectiveScan& p, const Tile& tile, const Block& block) {
  return p.starts ? p.starts + tile.row * p.length + block.begin : nullptr;
}

const float* at(const Rows& rows, int64_t row, int64_t t) {
  return rows.data + row * rows.batch_stride + t * rows.time_stride;
}

// B or C: a row of numbers for each step of a block.
struct Steps {
  const float* data;
  int64_t down;
};

Steps vectors_of(const SelectiveScan& p, const Rows& rows, const Tile& tile, const Block& block) {
  return {at(rows, tile.row, block.begin) + tile.group * p.states, rows.time_stride};
}

// The `lanes` numbers of a tile at `from`, as a row of kTile with zeros in the rest.
const float* whole_row(const float* from, int64_t lanes, float* spare) {
  if (lanes == kTile) return from;
  std::memcpy(spare, from, lanes * sizeof(float));
  return spare;
}

// Has what the next tile reads or writes of this row brought near: rows lie a page or more apart, too far for the
// machine to see what comes.
template <bool written = false>
void fetch_next(const float* row) {
#if !defined(_MSC_VER)
  for (int64_t l = kTile; l < 2 * kTile; l += 16) __builtin_prefetch(row + l, written, 2);
#else
  (void)row;
#endif
}

// A row of a tile that is written vector by vector.
class Written {
 public:
  Written(float* to, int64_t lanes) : to_(to), lanes_(lanes), row_(lanes == kTile ? to : spare_) {
    fetch_next<true>(to);
  }
  ~Written() {
    if (row_ == spare_) std::memcpy(to_, spare_, lanes_ * sizeof(float));
  }
  void write(int64_t v, vec x) { ::write(x, row_ + v * kLanes); }

 private:
  float spare_[kTile], *to_;
  int64_t lanes_;
  float* row_;
};

// Where numbers for the states of every channel are of a tile's row of the batch: (channels, states).
int64_t systems_of(const SelectiveScan& p, const Tile& tile) { return (tile.row * p.channels + tile.first) * p.states; }

// (states, vectors) from (channels, states), and back.
void gather(const float* from, int64_t states, const Tile& tile, float factor, vec* to) {
  float row[kTile] = {};
  for (int64_t n = 0; n < states; n++) {
    for (int64_t l = 0; l < tile.lanes; l++) row[l] = factor * from[l * states + n];
    std::memcpy(static_cast<void*>(to + n * kVectors), row, sizeof(row));
  }
}

void scatter(const vec* from, int64_t states, const Tile& tile, float* to) {
  float row[kTile];
  for (int64_t n = 0; n < states; n++) {
    std::memcpy(row, from + n * kVectors, sizeof(row));
    for (int64_t l = 0; l < tile.lanes; l++) to[l * states + n] = row[l];
  }
}

// The border before a block, which lies in memory as (states, channels).
float* border(const SelectiveScan& p, const Tile& tile, const Block& block) {
  return p.borders + (tile.row * blocks_of(p) + block.index) * p.states * p.channels + tile.first;
}

// One number a channel and step, those of a vector beside each other; rows a power of two apart would share a few places
// of the first-level cache.
struct Staged {
  vec all[kVectors][kBlock + 1];
};

struct Channels {
  vec all[kVectors];

  void read(const float* from, const Tile& tile) {
    for (int64_t v = 0; v < kVectors; v++) {
      const int64_t lanes = tile.lanes_of(v);
      all[v] = from && lanes > 0 ? load(from + tile.first + v * kLanes, lanes) : zero();
    }
  }
  void write(const Tile& tile, float* to) const {
    for (int64_t v = 0; v < tile.vectors(); v++) store(all[v], to + v * kLanes, tile.lanes_of(v));
  }
};

// What stays of a tile from block to block: exponents in base 2, and states.
struct System {
  Vectors A, h;
  Channels bias, skip;

  explicit System(const SelectiveScan& p) : A(p.states * kVectors), h(p.states * kVectors) {}

  void begin(const SelectiveScan& p, const Tile& tile) {
    gather(p.A + tile.first * p.states, p.states, tile, 1.44269504f, A.at(0));
    bias.read(p.dt_bias, tile);
    skip.read(p.D, tile);
  }
};

struct Stage {
  Staged step, x, y, gate;
};

void stage(const SelectiveScan& p, const Tile& tile, const Block& block, const System& system, Stage& s) {
  float spare_u[kTile] = {}, spare_dt[kTile] = {}, spare_z[kTile] = {};
  for (int64_t t = 0; t < block.count; t++) {
    const float* u = at(p.u, tile.row, block.begin + t) + tile.first;
    const float* dt = at(p.dt, tile.row, block.begin + t) + tile.first;
    fetch_next(u), fetch_next(dt);
    u = whole_row(u, tile.lanes, spare_u), dt = whole_row(dt, tile.lanes, spare_dt);
    for (int64_t v = 0; v < kVectors; v++) {
      const vec in = read(u + v * kLanes), raw = read(dt + v * kLanes) + system.bias.all[v];
      const vec step = p.softplus ? softplus(raw).value : raw;
      s.step.all[v][t] = step;
      s.x.all[v][t] = step * in;
      s.y.all[v][t] = system.skip.all[v] * in;
    }
    if (!p.z.data) continue;
    const float* z = at(p.z, tile.row, block.begin + t) + tile.first;
    fetch_next(z);
    z = whole_row(z, tile.lanes, spare_z);
    for (int64_t v = 0; v < kVectors; v++) {
      const vec gate = read(z + v * kLanes);
      s.gate.all[v][t] = gate * sigmoid(gate);
    }
  }
}

// `count` states of a vector through a block; y gains their readout.
template <int count>
void advance(const vec* A, const vec* step, const vec* x, Steps B, Steps C, const uint8_t* starts, int64_t steps,
             vec* h, vec* y) {
  vec exponent[count], state[count];
  for (int i = 0; i < count; i++) exponent[i] = A[i * kVectors], state[i] = h[i * kVectors];
  for (int64_t t = 0; t < steps; t++, B.data += B.down, C.data += C.down) {
    if (starts && starts[t])
      for (int i = 0; i < count; i++) state[i] = zero();
    vec out = y[t];
    for (int i = 0; i < count; i++) {
      state[i] = exp2_of_product(step[t], exponent[i]) * state[i] + x[t] * B.data[i];
      out += state[i] * C.data[i];
    }
    y[t] = out;
  }
  for (int i = 0; i < count; i++) h[i * kVectors] = state[i];
}

void forward_block(const SelectiveScan& p, const Tile& tile, const Block& block, System& system, Stage& s) {
  if (p.borders) {
    float* to = border(p, tile, block);
    for (int64_t n = 0; n < p.states; n++, to += p.channels) {
      fetch_next<true>(to);
      for (int64_t v = 0; v < tile.vectors(); v++)
        store(*system.h.at(n * kVectors + v), to + v * kLanes, tile.lanes_of(v));
    }
  }
  const uint8_t* starts = starts_of(p, tile, block);
  const Steps B = vectors_of(p, p.B, tile, block), C = vectors_of(p, p.C, tile, block);
  stage(p, tile, block, system, s);
  for (int64_t v = 0; v < tile.vectors(); v++) {
    auto through = [&](auto run, int64_t n) {
      run(system.A.at(n * kVectors + v), s.step.all[v], s.x.all[v], Steps{B.data + n, B.down},
          Steps{C.data + n, C.down}, starts, block.count, system.h.at(n * kVectors + v), s.y.all[v]);
    };
    int64_t n = 0;
    for (; n + kHigh <= p.states; n += kHigh) through(advance<kHigh>, n);
    for (; n < p.states; n++) through(advance<1>, n);
  }
  float* to = p.y + (tile.row * p.length + block.begin) * p.channels + tile.first;
  for (int64_t t = 0; t < block.size; t++, to += p.channels) {
    Written y(to, tile.lanes);
    for (int64_t v = 0; v < kVectors; v++) {
      if (t >= block.count)
        y.write(v, zero());
      else
        y.write(v, p.z.data ? s.y.all[v][t] * s.gate.all[v][t] : s.y.all[v][t]);
    }
  }
}

void forward_start(const SelectiveScan& p, const Tile& tile, System& system) {
  system.begin(p, tile);
  if (p.state)
    gather(p.state + systems_of(p, tile), p.states, tile, 1.f, system.h.at(0));
  else
    system.h.clear();
}

// The same of the backward pass.
struct SystemBack : System {
  Vectors grad_A;
  Channels grad_bias, grad_D;

  explicit SystemBack(const SelectiveScan& p) : System(p), grad_A(p.states * kVectors) {}
};

// What it needs for a block; and for kHigh states their decays, they themselves from before the block on, and what they
// add to the derivatives by B and C, lane by lane.
struct StageBack {
  Vectors decay, state, by_B, by_C;
  Staged u, step, x, y, dy, opening, gate_slope, drive, through;

  StageBack() : decay(kBlock * kHigh), state((kBlock + 1) * kHigh), by_B(kBlock * kHigh), by_C(kBlock * kHigh) {}
};

void stage_back(const SelectiveScan& p, const Tile& tile, const Block& block, const System& system, StageBack& s) {
  float spare_u[kTile] = {}, spare_dt[kTile] = {}, spare_z[kTile] = {}, spare_dy[kTile] = {};
  for (int64_t t = 0; t < block.count; t++) {
    const float* u = at(p.u, tile.row, block.begin + t) + tile.first;
    const float* dt = at(p.dt, tile.row, block.begin + t) + tile.first;
    const float* grad_y = p.grad_y + (tile.row * p.length + block.begin + t) * p.channels + tile.first;
    fetch_next(u), fetch_next(dt), fetch_next(grad_y);
    u = whole_row(u, tile.lanes, spare_u), dt = whole_row(dt, tile.lanes, spare_dt);
    grad_y = whole_row(grad_y, tile.lanes, spare_dy);
    for (int64_t v = 0; v < kVectors; v++) {
      const vec in = read(u + v * kLanes), raw = read(dt + v * kLanes) + system.bias.all[v];
      vec step = raw;
      if (p.softplus) {
        const Softplus found = softplus(raw);
        step = found.value;
        s.opening.all[v][t] = found.slope;
      }
      s.u.all[v][t] = in;
      s.step.all[v][t] = step;
      s.x.all[v][t] = step * in;
      s.y.all[v][t] = system.skip.all[v] * in;
      s.dy.all[v][t] = read(grad_y + v * kLanes);
      s.drive.all[v][t] = s.through.all[v][t] = zero();
    }
    if (!p.z.data) continue;
    const float* z = at(p.z, tile.row, block.begin + t) + tile.first;
    fetch_next(z);
    z = whole_row(z, tile.lanes, spare_z);
    for (int64_t v = 0; v < kVectors; v++) {
      const vec gate = read(z + v * kLanes), open = sigmoid(gate), dy = s.dy.all[v][t];
      s.gate_slope.all[v][t] = dy * open * (1.f + gate * (1.f - open));
      s.dy.all[v][t] = dy * gate * open;
    }
  }
}

// `advance` that keeps the decays, which are 0 where a sequence begins, and the states; and adds to what C gets, of
// which the first vector is the beginning.
template <int count, bool first>
void keep_states(const vec* A, const vec* step, const vec* x, const vec* dy, Steps B, Steps C, const uint8_t* starts,
                 int64_t steps, vec* decay, vec* state, vec* by_C, vec* y) {
  vec exponent[count], now[count];
  for (int i = 0; i < count; i++) exponent[i] = A[i * kVectors], now[i] = state[i];
  for (int64_t t = 0; t < steps; t++, B.data += B.down, C.data += C.down) {
    if (starts && starts[t])
      for (int i = 0; i < count; i++) now[i] = zero();
    vec out = y[t];
    for (int i = 0; i < count; i++) {
      const vec a = exp2_of_product(step[t], exponent[i]);
      now[i] = a * now[i] + x[t] * B.data[i];
      out += now[i] * C.data[i];
      decay[t * count + i] = a;
      state[(t + 1) * count + i] = now[i];
      by_C[t * count + i] = first ? dy[t] * now[i] : by_C[t * count + i] + dy[t] * now[i];
    }
    y[t] = out;
  }
  for (int64_t t = 0; starts && t < steps; t++)
    if (starts[t])
      for (int i = 0; i < count; i++) decay[t * count + i] = zero();
}

// `count` states of a vector back through a block: g is the derivative by the states after it, then by those before it.
template <int count, bool first>
void retreat(const vec* A, const vec* step, const vec* x, const vec* dy, Steps B, Steps C, int64_t steps,
             const vec* decay, const vec* state, vec* g, vec* grad_A, vec* drive, vec* through, vec* by_B) {
  vec exponent[count], flow[count], by_A[count];
  for (int i = 0; i < count; i++)
    exponent[i] = A[i * kVectors], flow[i] = g[i * kVectors], by_A[i] = grad_A[i * kVectors];
  B.data += (steps - 1) * B.down, C.data += (steps - 1) * C.down;
  for (int64_t t = steps - 1; t >= 0; t--, B.data -= B.down, C.data -= C.down) {
    vec by_x = drive[t], by_step = through[t];
    for (int i = 0; i < count; i++) {
      const vec slope = flow[i] + dy[t] * C.data[i];
      flow[i] = slope * decay[t * count + i];
      const vec by_exponent = flow[i] * state[t * count + i];
      by_A[i] += by_exponent * step[t];
      by_step += by_exponent * exponent[i];
      by_x += slope * B.data[i];
      by_B[t * count + i] = first ? slope * x[t] : by_B[t * count + i] + slope * x[t];
    }
    drive[t] = by_x;
    through[t] = by_step;
  }
  for (int i = 0; i < count; i++) g[i * kVectors] = flow[i], grad_A[i * kVectors] = by_A[i];
}

// The sums over lanes of kLanes vectors, one a lane.
template <int32_t half = 1>
inline vec sums_of(vec* rows) {
#if !defined(_MSC_VER)
  if constexpr (half < kLanes) {
#pragma GCC unroll 16
    for (int32_t r = 0; r < kLanes; r += 2 * half) {
      exchange<half>(rows[r], rows[r + half], std::make_index_sequence<kLanes>());
      rows[r] += rows[r + half];
    }
    return sums_of<2 * half>(rows);
  }
#endif
  return rows[0];
}

// The sums over lanes of rows (steps, count) to an array (steps, states).
template <int count>
void add_up(const vec* rows, int64_t steps, int64_t states, float* to) {
  float sums[kBlock * count + kLanes];
  for (int64_t i = 0; i < steps * count; i += kLanes) {
    vec some[kLanes];
    for (int64_t k = 0; k < kLanes; k++) some[k] = rows[i + k];
    write(sums_of(some), sums + i);
  }
  for (int64_t t = 0; t < steps; t++)
    for (int i = 0; i < count; i++) to[t * states + i] = sums[t * count + i];
}

// `count` states of a vector, from the n-th on, forward and back through a block.
template <int count, bool first>
void back_and_forth(const SelectiveScan& p, const Tile& tile, const Block& block, int64_t n, int64_t v,
                    SystemBack& system, StageBack& s) {
  const uint8_t* starts = starts_of(p, tile, block);
  Steps B = vectors_of(p, p.B, tile, block), C = vectors_of(p, p.C, tile, block);
  B.data += n, C.data += n;
  const float* before = border(p, tile, block) + n * p.channels + v * kLanes;
  for (int i = 0; i < count; i++) *s.state.at(i) = load(before + i * p.channels, tile.lanes_of(v));
  const int64_t place = n * kVectors + v;
  const vec *A = system.A.at(place), *step = s.step.all[v], *x = s.x.all[v], *dy = s.dy.all[v];
  keep_states<count, first>(A, step, x, dy, B, C, starts, block.count, s.decay.at(0), s.state.at(0), s.by_C.at(0),
                            s.y.all[v]);
  retreat<count, first>(A, step, x, dy, B, C, block.count, s.decay.at(0), s.state.at(0), system.h.at(place),
                        system.grad_A.at(place), s.drive.all[v], s.through.all[v], s.by_B.at(0));
}

template <int count>
void states_back(const SelectiveScan& p, const Tile& tile, const Block& block, int64_t part, int64_t n,
                 SystemBack& system, StageBack& s) {
  back_and_forth<count, true>(p, tile, block, n, 0, system, s);
  for (int64_t v = 1; v < tile.vectors(); v++) back_and_forth<count, false>(p, tile, block, n, v, system, s);
  const int64_t to = ((part * p.batch + tile.row) * p.length + block.begin) * p.states + n;
  add_up<count>(s.by_B.at(0), block.count, p.states, p.grad_B + to);
  add_up<count>(s.by_C.at(0), block.count, p.states, p.grad_C + to);
}

// The derivatives by u, dt and z of a block; zeros behind what is valid.
void unstage_back(const SelectiveScan& p, const Tile& tile, const Block& block, SystemBack& system, StageBack& s) {
  int64_t place = (tile.row * p.length + block.begin) * p.channels + tile.first;
  for (int64_t t = 0; t < block.count; t++, place += p.channels) {
    Written grad_u(p.grad_u + place, tile.lanes), grad_dt(p.grad_dt + place, tile.lanes);
    for (int64_t v = 0; v < kVectors; v++) {
      const vec u = s.u.all[v][t], dy = s.dy.all[v][t], drive = s.drive.all[v][t];
      vec slope = s.through.all[v][t] * 0.693147181f + drive * u;  // exponents are in base 2
      if (p.softplus) slope *= s.opening.all[v][t];
      grad_u.write(v, drive * s.step.all[v][t] + system.skip.all[v] * dy);
      grad_dt.write(v, slope);
      system.grad_bias.all[v] += slope;
      system.grad_D.all[v] += dy * u;
    }
    if (!p.z.data) continue;
    Written grad_z(p.grad_z + place, tile.lanes);
    for (int64_t v = 0; v < kVectors; v++) grad_z.write(v, s.y.all[v][t] * s.gate_slope.all[v][t]);
  }
  for (int64_t t = block.count; t < block.size; t++, place += p.channels) {
    clear(p.grad_u + place, tile.lanes);
    clear(p.grad_dt + place, tile.lanes);
    if (p.z.data) clear(p.grad_z + place, tile.lanes);
  }
}

void backward_block(const SelectiveScan& p, const Tile& tile, const Block& block, int64_t part, SystemBack& system,
                    StageBack& s) {
  const int64_t rest = ((part * p.batch + tile.row) * p.length + block.begin + block.count) * p.states;
  clear(p.grad_B + rest, (block.size - block.count) * p.states);
  clear(p.grad_C + rest, (block.size - block.count) * p.states);
  if (block.count > 0) {
    stage_back(p, tile, block, system, s);
    for (int64_t i = 0; i < p.states; i++) fetch_next(border(p, tile, block) + i * p.channels);
    int64_t n = 0;
    for (; n + kHigh <= p.states; n += kHigh) states_back<kHigh>(p, tile, block, part, n, system, s);
    for (; n < p.states; n++) states_back<1>(p, tile, block, part, n, system, s);
  }
  unstage_back(p, tile, block, system, s);
}

void backward_start(const SelectiveScan& p, const Tile& tile, SystemBack& system) {
  system.begin(p, tile);
  gather(p.grad_final + systems_of(p, tile), p.states, tile, 1.f, system.h.at(0));
  system.grad_A.clear();
  system.grad_bias = system.grad_D = Channels{};
}

void backward_end(const SelectiveScan& p, const Tile& tile, const SystemBack& system) {
  scatter(system.h.at(0), p.states, tile, p.grad_state + systems_of(p, tile));
  scatter(system.grad_A.at(0), p.states, tile, p.grad_A + systems_of(p, tile));
  system.grad_bias.write(tile, p.grad_bias + tile.row * p.channels + tile.first);
  system.grad_D.write(tile, p.grad_D + tile.row * p.channels + tile.first);
}

// Tasks begin .. end - 1 by groups of tiles of one row of the batch.
template <class Work>
void by_groups(const SelectiveScan& p, int64_t begin, int64_t end, Work work) {
  const int64_t tiles = tiles_of_group(p) * p.groups;
  while (begin < end) {
    int64_t last = begin - begin % tiles + tiles;
    last = last < end ? last : end;
    last = last < begin + kTogether ? last : begin + kTogether;
    work(begin, last);
    begin = last;
  }
}

}  // namespace

extern "C" {

int64_t JOIN(longstate_selective_block_, ISA)() { return kBlock; }

int64_t JOIN(longstate_selective_tiles_, ISA)(int64_t channels, int64_t groups) {
  return (channels / groups + kTile - 1) / kTile;
}

void JOIN(longstate_selective_forward_, ISA)(const SelectiveScan* p, int64_t begin, int64_t end) {
  std::deque<System> systems;
  Stage scratch;
  by_groups(*p, begin, end, [&](int64_t first, int64_t last) {
    while (static_cast<int64_t>(systems.size()) < last - first) systems.emplace_back(*p);
    for (int64_t i = first; i < last; i++) forward_start(*p, tile_of(*p, i), systems[i - first]);
    for (int64_t index = 0; index < blocks_of(*p); index++)
      for (int64_t i = first; i < last; i++) {
        const Tile tile = tile_of(*p, i);
        forward_block(*p, tile, block_of(*p, tile, index), systems[i - first], scratch);
      }
    for (int64_t i = first; i < last; i++) {
      const Tile tile = tile_of(*p, i);
      scatter(systems[i - first].h.at(0), p->states, tile, p->final_state + systems_of(*p, tile));
    }
  });
}

void JOIN(longstate_selective_backward_, ISA)(const SelectiveScan* p, int64_t begin, int64_t end) {
  const int64_t tiles = tiles_of_group(*p) * p->groups;
  std::deque<SystemBack> systems;
  StageBack scratch;
  by_groups(*p, begin, end, [&](int64_t first, int64_t last) {
    while (static_cast<int64_t>(systems.size()) < last - first) systems.emplace_back(*p);
    for (int64_t i = first; i < last; i++) backward_start(*p, tile_of(*p, i), systems[i - first]);
    for (int64_t index = blocks_of(*p) - 1; index >= 0; index--)
      for (int64_t i = first; i < last; i++) {
        const Tile tile = tile_of(*p, i);
        backward_block(*p, tile, block_of(*p, tile, index), i % tiles, systems[i - first], scratch);
      }
    for (int64_t i = first; i < last; i++) backward_end(*p, tile_of(*p, i), systems[i - first]);
  });
}
}
