// GELU, an affine map and a gate, row by row, forward and backward; compiled once for every instruction set.
//
//   g = gelu(y),  h = W g + c,    glu: out = a s, (a, b) = h, s = sigmoid(b)
//                                 half_glu1, half_glu2: out = g s, y s, s = sigmoid(h)
//                                 linear: out = h
//
// A task is a block of rows, which goes through all of it in the first two caches. The backward pass computes g again;
// by the gate's argument the derivative is dout out (1 - s), so that nothing else of the forward pass is needed.
#include "lanes_math.h"
#include "longstate.h"
#include "products.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

namespace {

// The results that a product keeps in registers, of 32 or of 16: 6 x 4 or 6 x 2 vectors, a factor and a row.
constexpr int kTileRows = 6;
#if defined(__AVX512F__)
constexpr int kTileVectors = 4;
#else
constexpr int kTileVectors = 2;
#endif
constexpr int64_t kPanel = kTileVectors * kLanes;  // columns of a panel
constexpr int64_t kInner = 128;                    // of a panel, how many rows are in the first cache at a time
constexpr int64_t kRows = 96;                      // of a task

int64_t rounded(int64_t count, int64_t to) { return (count + to - 1) / to * to; }
int64_t blocks_of(const GELUMap& p) { return (p.rows + kRows - 1) / kRows; }
int64_t tiles_of(int64_t inner) { return kRows / kTileRows * ((inner + kInner - 1) / kInner); }
int64_t mapped(const GELUMap& p) { return p.kind == kGLU ? 2 * p.outputs : p.outputs; }

// Rows of a block. They are longer than they need be: rows a power of two apart would share a few places of the first
// cache.
class Lines : public Panel {
 public:
  explicit Lines(int64_t columns) : Panel(kRows, rounded(columns, kPanel) + kLanes) {}
};

// A matrix (inner, columns) by panels of columns, each as it is read.
class Panels {
 public:
  const int64_t inner, count;
  Panels(int64_t inner, int64_t count) : inner(inner), count(count), all_(count * inner * kTileVectors) {}
  float* panel(int64_t i) const { return reinterpret_cast<float*>(all_.at(i * inner * kTileVectors)); }

 private:
  Vectors all_;
};

// Asks for what the next block reads and writes, a little for every tile of this one's products: these leave the memory
// idle, and what stands between them would wait for it.
class Ahead {
 public:
  Ahead(const GELUMap& p, int64_t block, int64_t tiles) : row_((block + 1) * kRows), tiles_(tiles) {
    const int64_t left = p.rows - row_;
    rows_ = left < kRows ? left : kRows;
  }
  void add(const float* array, int64_t width) {
    if (!array || rows_ <= 0) return;
    begin_[count_] = array + row_ * width;
    end_[count_] = begin_[count_] + rows_ * width;
    each_ += (rows_ * width + kLine * tiles_ - 1) / (kLine * tiles_);
    count_++;
  }
  void fetch() {
    for (int64_t i = 0; i < each_ && at_ < count_; i++) {
#if !defined(_MSC_VER)
      __builtin_prefetch(begin_[at_]);
#endif
      begin_[at_] += kLine;
      at_ += begin_[at_] >= end_[at_];
    }
  }

 private:
  static constexpr int64_t kLine = 16;  // numbers of a line of the cache
  int64_t row_, rows_, tiles_, each_ = 0;
  int count_ = 0, at_ = 0;
  const float *begin_[5], *end_[5];
};

// to += a panel for whole tiles of rows.
void multiply_panel(const Floats& a, const float* panel, const Floats& to, int64_t rows, int64_t inner, Ahead& ahead) {
  for (int64_t k = 0; k < inner; k += kInner) {
    const int64_t count = inner - k < kInner ? inner - k : kInner;
    const Floats b{const_cast<float*>(panel) + k * kPanel, kPanel, 1};
    for (int64_t i = 0; i < rows; i += kTileRows, ahead.fetch())
      tile_of_product<kTileRows, kTileVectors>(a.from(0, k), b, to, i, 0, count);
  }
}

// The map as panels of outputs. Those of a gated map are half values and half the gates that belong to them.
struct Map {
  Panels weight, bias;

  static int64_t each(const GELUMap& p) { return p.kind == kGLU ? kPanel / 2 : kPanel; }

  explicit Map(const GELUMap& p)
      : weight(p.features, (p.outputs + each(p) - 1) / each(p)), bias(1, weight.count) {
    for (int64_t i = 0; i < weight.count; i++)
      for (int64_t j = 0; j < kPanel; j++) {
        const int64_t output = i * each(p) + j % each(p), row = j < each(p) ? output : p.outputs + output;
        if (output >= p.outputs) continue;
        for (int64_t k = 0; k < p.features; k++) weight.panel(i)[k * kPanel + j] = p.weight[row * p.features + k];
        if (p.bias) bias.panel(i)[j] = p.bias[row];
      }
  }
};

int64_t lanes_left(int64_t count, int64_t k) { return count - k < kLanes ? count - k : kLanes; }

// Into rows of a block, which have room for whole vectors.
void activate(const float* y, int64_t count, bool tanh, float* g) {
  for (int64_t k = 0; k < count; k += kLanes) {
    const vec x = load(y + k, lanes_left(count, k));
    write(tanh ? gelu_tanh(x).value : gelu(x).value, g + k);
  }
}

void activate_with_slope(const float* y, int64_t count, bool tanh, float* g, float* slope) {
  for (int64_t k = 0; k < count; k += kLanes) {
    const vec x = load(y + k, lanes_left(count, k));
    const ValueSlope found = tanh ? gelu_tanh(x) : gelu(x);
    write(found.value, g + k);
    write(found.slope, slope + k);
  }
}

// out = value sigmoid(h), and the gates in place of h.
void gate(const float* value, float* h, int64_t count, float* out) {
  for (int64_t k = 0; k < count; k += kLanes) {
    const int64_t lanes = lanes_left(count, k);
    const vec s = sigmoid(read(h + k));
    write(s, h + k);
    store(load(value + k, lanes) * s, out + k, lanes);
  }
}

// The derivatives by the value and by the gate's argument.
void gate_back(const float* grad, const float* out, const float* gate, int64_t count, float* by_value, float* by_gate) {
#pragma omp simd
  for (int64_t j = 0; j < count; j++) {
    const float value = grad[j] * gate[j];
    by_value[j] = value;
    by_gate[j] = (grad[j] - value) * out[j];
  }
}

struct Forward {
  Map map;
  Lines g, h;
  explicit Forward(const GELUMap& p) : map(p), g(p.features), h(kPanel) {}
};

// What a panel of the map gives one row; `value` is what a half gate multiplies.
void finish(const GELUMap& p, int64_t row, int64_t first, const float* value, float* h) {
  const int64_t each = Map::each(p), left = p.outputs - first, count = left < each ? left : each;
  float* out = p.out + row * p.outputs + first;
  if (p.kind == kLinear) return copy(h, count, out);
  float* gates = p.kind == kGLU ? h + each : h;
  gate(p.kind == kGLU ? h : value + first, gates, count, out);
  if (p.gate) copy(gates, count, p.gate + row * p.outputs + first);
}

void forward_block(const GELUMap& p, int64_t block, Forward& w) {
  const int64_t first = block * kRows, left = p.rows - first, count = left < kRows ? left : kRows;
  const float* y = p.y + first * p.features;
  Ahead ahead(p, block, w.map.weight.count * tiles_of(p.features));
  ahead.add(p.y, p.features);
  for (int64_t i = 0; i < count; i++) activate(y + i * p.features, p.features, p.tanh, w.g.row(i));
  for (int64_t panel = 0; panel < w.map.weight.count; panel++) {
    const int64_t whole = rounded(count, kTileRows);
    for (int64_t i = 0; i < whole; i++) copy(w.map.bias.panel(panel), kPanel, w.h.row(i));
    multiply_panel(w.g.all(), w.map.weight.panel(panel), w.h.all(), whole, p.features, ahead);
    for (int64_t i = 0; i < count; i++)
      finish(p, first + i, panel * Map::each(p), p.kind == kHalfGLU1 ? w.g.row(i) : y + i * p.features, w.h.row(i));
  }
}

struct Backward {
  const int64_t maps, panels;  // outputs of the map; panels of features
  Panels weight;
  Lines g, slope, dh, direct, dg;
  Panel weight_sum, bias_sum;

  explicit Backward(const GELUMap& p)
      : maps(mapped(p)), panels((p.features + kPanel - 1) / kPanel), weight(maps, panels), g(p.features),
        slope(p.features), dh(rounded(maps, kTileRows)), direct(p.outputs), dg(kPanel),
        weight_sum(rounded(maps, kTileRows), panels * kPanel), bias_sum(1, maps) {
    for (int64_t m = 0; m < maps; m++)
      for (int64_t k = 0; k < p.features; k++)
        weight.panel(k / kPanel)[m * kPanel + k % kPanel] = p.weight[m * p.features + k];
  }
};

// The derivative by h, and what reaches a half gate's value past the map.
void through_gates(const GELUMap& p, int64_t first, int64_t count, Backward& w) {
  const int64_t n = p.outputs;
  for (int64_t i = 0; i < count; i++) {
    const int64_t at = (first + i) * n;
    float* dh = w.dh.row(i);
    if (p.kind == kLinear)
      copy(p.grad_out + at, n, dh);
    else if (p.kind == kGLU)
      gate_back(p.grad_out + at, p.out + at, p.gate + at, n, dh, dh + n);
    else
      gate_back(p.grad_out + at, p.out + at, p.gate + at, n, w.direct.row(i), dh);
    add_to(dh, w.maps, w.bias_sum.row(0));
  }
}

void input_slope(const GELUMap& p, int64_t first, int64_t count, Backward& w, Ahead& ahead) {
  for (int64_t panel = 0; panel < w.panels; panel++) {
    const int64_t begin = panel * kPanel, left = p.features - begin, width = left < kPanel ? left : kPanel;
    w.dg.clear();
    multiply_panel(w.dh.all(), w.weight.panel(panel), w.dg.all(), rounded(count, kTileRows), w.maps, ahead);
    for (int64_t i = 0; i < count; i++) {
      float *dg = w.dg.row(i), *to = p.grad_y + (first + i) * p.features + begin;
      if (p.kind == kHalfGLU1) add_to(w.direct.row(i) + begin, width, dg);
      scale_by(dg, w.slope.row(i) + begin, width, to);
      if (p.kind == kHalfGLU2) add_to(w.direct.row(i) + begin, width, to);
    }
  }
}

void backward_block(const GELUMap& p, int64_t block, Backward& w) {
  const int64_t first = block * kRows, left = p.rows - first, count = left < kRows ? left : kRows;
  const float* y = p.y + first * p.features;
  const int64_t by_weight = p.grad_weight ? w.panels * (rounded(w.maps, kTileRows) / kTileRows) : 0;
  Ahead ahead(p, block, by_weight + (p.grad_y ? w.panels * tiles_of(w.maps) : 0));
  ahead.add(p.y, p.features);
  ahead.add(p.grad_out, p.outputs);
  ahead.add(p.out, p.outputs);
  ahead.add(p.gate, p.outputs);
  ahead.add(p.grad_y, p.features);
  for (int64_t i = 0; i < count; i++)
    activate_with_slope(y + i * p.features, p.features, p.tanh, w.g.row(i), w.slope.row(i));
  through_gates(p, first, count, w);
  if (p.grad_weight)
    for (int64_t panel = 0; panel < w.panels; panel++)
      for (int64_t m = 0; m < w.maps; m += kTileRows, ahead.fetch())
        tile_of_product<kTileRows, kTileVectors>(w.dh.all().transposed(), w.g.all().from(0, panel * kPanel),
                                                 w.weight_sum.all().from(0, panel * kPanel), m, 0, count);
  if (p.grad_y) input_slope(p, first, count, w, ahead);
}

}  // namespace

extern "C" {

int64_t JOIN(longstate_gelu_map_rows_, ISA)() { return kRows; }

// A task is a block of rows.
void JOIN(longstate_gelu_map_forward_, ISA)(const GELUMap* p, int64_t begin, int64_t end) {
  Forward work(*p);
  for (int64_t block = begin; block < end; block++) forward_block(*p, block, work);
}

// A task is the blocks of one part.
void JOIN(longstate_gelu_map_backward_, ISA)(const GELUMap* p, int64_t begin, int64_t end) {
  Backward work(*p);
  const int64_t blocks = blocks_of(*p), F = p->features;
  for (int64_t part = begin; part < end; part++) {
    work.weight_sum.clear();
    work.bias_sum.clear();
    for (int64_t block = part * blocks / p->parts; block < (part + 1) * blocks / p->parts; block++)
      backward_block(*p, block, work);
    if (p->grad_weight)
      for (int64_t m = 0; m < work.maps; m++)
        copy(work.weight_sum.row(m), F, p->grad_weight + (part * work.maps + m) * F);
    if (p->grad_bias) copy(work.bias_sum.row(0), work.maps, p->grad_bias + part * work.maps);
  }
}
}
