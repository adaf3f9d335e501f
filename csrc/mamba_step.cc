// One step of Mamba from projection to projection; compiled once for every instruction set (ISA names it).
//
//   [x, z] = W_in u,    x' = silu(conv(x)),    r, B, C = norms(W_x x'),    D_e = rate softplus(W_dt r + b_dt)
//   h <- exp(D_e A) h + D_e B x',    y = W_out ((C h + D x') silu(z))
//
// Four products with a barrier after each; what stands between them is done by whoever made its operands.
#include "few_rows.h"
#include "step_parts.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

namespace {

// What the phases leave for each other: [x, z] (later the steps, z), x' (later the outputs), [r, B, C], and the
// normalised input of a branch.
struct Work {
  int64_t E, vectors;
  float *xz, *u, *rbc, *normal;
  explicit Work(const MambaStep& p)
      : E(p.channels), vectors(p.rank + 2 * p.states), xz(p.own_work), u(xz + p.batch * 2 * E), rbc(u + p.batch * E),
        normal(rbc + p.batch * vectors) {}
};

void enter(const MambaStep& p, const Work& w, int64_t first, int64_t last) {
  const float* x = p.branch ? w.normal : p.x;
  few_rows(p.batch, p.width, first, last, p.into, p.into_bias, x, p.width, w.xz, 2 * w.E);
  const int64_t end = last < w.E ? last : w.E, size = (p.taps - 1) * w.E;
  for (int64_t row = 0; row < p.batch; row++) {
    convolve(first, end, w.E, p.taps, p.filter, p.filter_bias, w.xz + row * 2 * w.E, p.tail + row * size,
             w.u + row * w.E, p.next_tail + row * size);
    activate(first, end, w.u + row * w.E);
  }
}

void normalise_vectors(const MambaStep& p, const Work& w, int64_t first, int64_t last) {
  for (int64_t row = first; row < last; row++) {
    float *r = w.rbc + row * w.vectors, *B = r + p.rank, *C = B + p.states;
    normalise(p.rank, p.eps, p.norm_r, r, r);
    normalise(p.states, p.eps, p.norm_B, B, B);
    normalise(p.states, p.eps, p.norm_C, C, C);
  }
}

void make_steps(int64_t first, int64_t last, float rate, const float* __restrict bias, float* __restrict dt) {
  for (int64_t e = first; e < last; e++) dt[e] = rate * fast_softplus(dt[e] + bias[e]);
}

// Returns what C reads of the new state of a channel.
float advance(int64_t N, float step, float drive, const float* __restrict A, const float* __restrict B,
              const float* __restrict C, const float* __restrict h, float* __restrict next) {
  float sum = 0.f;
#pragma omp simd reduction(+ : sum)
  for (int64_t n = 0; n < N; n++) {
    next[n] = fast_exp(step * A[n]) * h[n] + drive * B[n];
    sum += C[n] * next[n];
  }
  return sum;
}

void gate(int64_t first, int64_t last, const float* __restrict D, const float* __restrict seen,
          const float* __restrict z, float* __restrict u) {
  for (int64_t e = first; e < last; e++) u[e] = (seen[e] + D[e] * u[e]) * z[e] * fast_sigmoid(z[e]);
}

void scan(const MambaStep& p, const Work& w, int64_t first, int64_t last) {
  const int64_t N = p.states;
  few_rows(p.batch, p.rank, first, last, p.dt, nullptr, w.rbc, w.vectors, w.xz, 2 * w.E);
  for (int64_t row = 0; row < p.batch; row++) {
    float *dt = w.xz + row * 2 * w.E, *u = w.u + row * w.E;
    const float *B = w.rbc + row * w.vectors + p.rank, *C = B + N;
    make_steps(first, last, p.rates ? p.rates[row] : p.rate, p.dt_bias, dt);
    for (int64_t e = first; e < last; e++) {
      const int64_t place = (row * w.E + e) * N;
      dt[e] = advance(N, dt[e], dt[e] * u[e], p.A + e * N, B, C, p.state + place, p.next + place);
    }
    gate(first, last, p.D, dt, dt + w.E, u);
  }
}

void leave(const MambaStep& p, const Work& w, int64_t first, int64_t last) {
  few_rows(p.batch, w.E, first, last, p.out, p.out_bias, w.u, w.E, p.y, p.width);
  end_branch(p, first, last);
}

}  // namespace

// A task is kStepRows outputs of a product for every row of the batch, or one row whose vectors are normalised.
extern "C" void JOIN(longstate_mamba_step_, ISA)(const MambaStep* p, int32_t phase, int64_t begin, int64_t end) {
  const Work w(*p);
  const int64_t sizes[] = {p->batch, 2 * w.E, w.vectors, p->batch, w.E, p->width};
  const int64_t size = sizes[phase], rows = phase == kMambaBegin || phase == kMambaNorms ? 1 : kStepRows;
  const int64_t first = begin * rows, last = end * rows < size ? end * rows : size;
  switch (phase) {
    case kMambaBegin: return begin_branch(*p, first, last, w.normal);
    case kMambaIn: return enter(*p, w, first, last);
    case kMambaVectors:
      return few_rows(p->batch, w.E, first, last, p->vectors, nullptr, w.u, w.E, w.rbc, w.vectors);
    case kMambaNorms: return normalise_vectors(*p, w, first, last);
    case kMambaScan: return scan(*p, w, first, last);
    case kMambaOut: return leave(*p, w, first, last);
  }
}
