// One step of Mamba-2 from projection to projection; compiled once for every instruction set (ISA names it).
//
//   [z, x, B, C, d] = W_in u,    [x, B, C] = silu(conv([x, B, C])),    D_h = rate clamp(softplus(d + b))
//   S <- exp(D_h A) S + D_h x B^T,    y = W_out norm((S C + D x) silu(z))
//
// Two products with a barrier after each; between them the heads, and the norm where there is one.
#include "few_rows.h"
#include "step_parts.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

namespace {

// What the phases leave for each other: W_in u, [x, B, C] (later the outputs in the place of x), and the normalised
// input of a branch.
struct Work {
  int64_t E, filtered, entering;
  float *into, *u, *normal;
  explicit Work(const Mamba2Step& p)
      : E(p.heads * p.head_width), filtered(E + 2 * p.groups * p.states), entering(E + filtered + p.heads),
        into(p.own_work), u(into + p.batch * entering), normal(u + p.batch * filtered) {}
};

void enter(const Mamba2Step& p, const Work& w, int64_t first, int64_t last) {
  few_rows(p.batch, p.width, first, last, p.into, p.into_bias, p.branch ? w.normal : p.x, p.width, w.into, w.entering);
  const int64_t begin = first < w.E ? 0 : first - w.E, size = (p.taps - 1) * w.filtered;
  const int64_t end = last - w.E < w.filtered ? last - w.E : w.filtered;
  for (int64_t row = 0; row < p.batch; row++) {
    convolve(begin, end, w.filtered, p.taps, p.filter, p.filter_bias, w.into + row * w.entering + w.E,
             p.tail + row * size, w.u + row * w.filtered, p.next_tail + row * size);
    activate(begin, end, w.u + row * w.filtered);
  }
}

// Returns what C reads of the new state of a channel.
float advance(int64_t N, float decay, float drive, const float* __restrict B, const float* __restrict C,
              const float* __restrict h, float* __restrict next) {
  float sum = 0.f;
#pragma omp simd reduction(+ : sum)
  for (int64_t n = 0; n < N; n++) {
    next[n] = decay * h[n] + drive * B[n];
    sum += C[n] * next[n];
  }
  return sum;
}

void gate(int64_t count, const float* __restrict z, float* __restrict y) {
  for (int64_t i = 0; i < count; i++) y[i] *= z[i] * fast_sigmoid(z[i]);
}

// A head of a row.
void run_head(const Mamba2Step& p, const Work& w, int64_t row, int64_t head) {
  const int64_t P = p.head_width, N = p.states, first = head * P, group = head / (p.heads / p.groups);
  const float* into = w.into + row * w.entering;
  float *u = w.u + row * w.filtered, *y = u + first;
  const float *B = u + w.E + group * N, *C = B + p.groups * N;
  float step = fast_softplus(into[w.E + w.filtered + head] + p.dt_bias[head]);
  step = step < p.floor ? p.floor : (step > p.ceiling ? p.ceiling : step);
  step *= p.rates ? p.rates[row] : p.rate;
  const float decay = fast_exp(step * p.A[head]);
  for (int64_t i = 0; i < P; i++) {
    const int64_t place = (row * w.E + first + i) * N;
    const float skip = p.D[p.D_each ? first + i : head] * y[i];
    y[i] = skip + advance(N, decay, step * y[i], B, C, p.state + place, p.next + place);
  }
  if (p.gate != kNormFirst) gate(P, into + first, y);
}

// The norm of a group of a row.
void normalise_group(const Mamba2Step& p, const Work& w, int64_t row, int64_t group) {
  const int64_t size = w.E / p.groups, first = group * size;
  float* y = w.u + row * w.filtered + first;
  normalise(size, p.eps, p.norm_y + first, y, y);
  if (p.gate == kNormFirst) gate(size, w.into + row * w.entering + first, y);
}

void leave(const Mamba2Step& p, const Work& w, int64_t first, int64_t last) {
  few_rows(p.batch, w.E, first, last, p.out, p.out_bias, w.u, w.filtered, p.y, p.width);
  end_branch(p, first, last);
}

}  // namespace

// A task is kStepRows outputs of a product for every row of the batch, or one row, head or group.
extern "C" void JOIN(longstate_mamba2_step_, ISA)(const Mamba2Step* p, int32_t phase, int64_t begin, int64_t end) {
  const Work w(*p);
  const int64_t size = phase == kMamba2In ? w.entering : p->width;
  const int64_t first = begin * kStepRows, last = end * kStepRows < size ? end * kStepRows : size;
  switch (phase) {
    case kMamba2Begin: return begin_branch(*p, begin, end, w.normal);
    case kMamba2In: return enter(*p, w, first, last);
    case kMamba2Heads:
      for (int64_t task = begin; task < end; task++) run_head(*p, w, task / p->heads, task % p->heads);
      return;
    case kMamba2Norm:
      for (int64_t task = begin; task < end; task++) normalise_group(*p, w, task / p->groups, task % p->groups);
      return;
    case kMamba2Out: return leave(*p, w, first, last);
  }
}
