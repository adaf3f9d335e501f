// One step of a linear time-invariant system, and of residual blocks around such; compiled once for every instruction
// set (ISA names it).
//
//   x <- A x + B u,    y = Re(C x) + D u
//
//   x <- x + scale * output(system(norm(x))) for every block, y = norm(x)
#include <cmath>
#include <vector>

#include "affine.h"
#include "fastmath.h"
#include "longstate.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

namespace {

// The next state of one feature of one row.
void advance_real(int64_t N, float u, const float* __restrict A, const float* __restrict B, const float* __restrict x,
                  float* __restrict next) {
  for (int64_t n = 0; n < N; n++) next[n] = A[n] * x[n] + B[n] * u;
}

void advance_complex(int64_t N, float u, const float* __restrict A, const float* __restrict B,
                     const float* __restrict x, float* __restrict next) {
  for (int64_t n = 0; n < N; n += 2) {
    next[n] = A[n] * x[n] - A[n + 1] * x[n + 1] + B[n] * u;
    next[n + 1] = A[n] * x[n + 1] + A[n + 1] * x[n] + B[n + 1] * u;
  }
}

void advance_dense(int64_t N, float u, const float* __restrict A, const float* __restrict B, const float* __restrict x,
                   float* __restrict next) {
  for (int64_t n = 0; n < N; n++) {
    const float* row = A + n * N;
    float sum = 0.f;
#pragma omp simd reduction(+ : sum)
    for (int64_t m = 0; m < N; m++) sum += row[m] * x[m];
    next[n] = sum + B[n] * u;
  }
}

float read_real(int64_t N, const float* __restrict C, const float* __restrict x) {
  float sum = 0.f;
#pragma omp simd reduction(+ : sum)
  for (int64_t n = 0; n < N; n++) sum += C[n] * x[n];
  return sum;
}

float read_complex(int64_t N, const float* __restrict C, const float* __restrict x) {
  float sum = 0.f;
#pragma omp simd reduction(+ : sum)
  for (int64_t n = 0; n < N; n += 2) sum += C[n] * x[n] - C[n + 1] * x[n + 1];
  return sum;
}

void normalise(const Norm& norm, int64_t H, const float* x, float* y) {
  float mean = 0.f, square = 0.f;
  if (norm.kind == kLayerNorm) {
#pragma omp simd reduction(+ : mean)
    for (int64_t h = 0; h < H; h++) mean += x[h];
    mean /= static_cast<float>(H);
  }
#pragma omp simd reduction(+ : square)
  for (int64_t h = 0; h < H; h++) square += (x[h] - mean) * (x[h] - mean);
  const float scale = norm.kind == kNoNorm ? 1.f : 1.f / std::sqrt(square / static_cast<float>(H) + norm.eps);
  for (int64_t h = 0; h < H; h++) y[h] = (x[h] - mean) * scale;
  if (norm.weight)
    for (int64_t h = 0; h < H; h++) y[h] *= norm.weight[h];
  if (norm.bias)
    for (int64_t h = 0; h < H; h++) y[h] += norm.bias[h];
}

void activate(int32_t activation, int64_t size, float* __restrict y) {
  if (activation == kGelu)
    for (int64_t i = 0; i < size; i++) y[i] = fast_gelu(y[i]);
  if (activation == kGeluTanh)
    for (int64_t i = 0; i < size; i++) y[i] = fast_gelu_tanh(y[i]);
}

void gate(int64_t H, float* __restrict y, const float* __restrict by) {
  for (int64_t h = 0; h < H; h++) y[h] *= fast_sigmoid(by[h]);
}

// Features `first` .. `last` - 1 of one row.
template <int32_t kind>
void step_features(const LTIStep* p, int64_t row, int64_t first, int64_t last) {
  const int64_t N = p->states, H = p->features, size = kind == kDense ? N * N : N;
  for (int64_t h = first; h < last; h++) {
    const float u = p->u[row * H + h], *x = p->state + (row * H + h) * N, *A = p->A + h * size, *B = p->B + h * N;
    float* next = p->next + (row * H + h) * N;
    if (kind == kReal)
      advance_real(N, u, A, B, x, next);
    else if (kind == kComplex)
      advance_complex(N, u, A, B, x, next);
    else
      advance_dense(N, u, A, B, x, next);
    for (int64_t c = 0; c < p->channels; c++) {
      const float* C = p->C + (c * H + h) * N;
      const float seen = kind == kComplex ? read_complex(N, C, next) : read_real(N, C, next);
      p->y[(row * p->channels + c) * H + h] = seen + p->D[c * H + h] * u;
    }
  }
}

}  // namespace

// A task is one feature of one row.
extern "C" void JOIN(longstate_lti_step_, ISA)(const LTIStep* p, int64_t begin, int64_t end) {
  const auto features = p->kind == kReal      ? step_features<kReal>
                        : p->kind == kComplex ? step_features<kComplex>
                                              : step_features<kDense>;
  const int64_t H = p->features;
  for (int64_t row = begin / H; row * H < end; row++) {
    const int64_t left = row * H;
    features(p, row, left < begin ? begin - left : 0, left + H < end ? H : end - left);
  }
}

namespace {

// Adds what a block says of one row `x` to it. `scratch` holds `widest` numbers.
void through_block(const LTIBlock& block, int64_t H, const float* state, float* next, float* x, float* scratch) {
  const int64_t seen = block.system.channels * H;
  float *u = scratch, *y = u + H, *mapped = y + seen;
  normalise(block.norm, H, x, u);
  LTIStep step = block.system;
  step.u = u, step.state = state, step.y = y, step.next = next;
  JOIN(longstate_lti_step_, ISA)(&step, 0, H);
  activate(block.activation, seen, y);
  if (block.weight) {
    affine(block.gated ? 2 * H : H, seen, block.weight, block.bias, y, mapped);
    y = mapped;
    if (block.gated) gate(H, y, y + H);
  }
  for (int64_t h = 0; h < H; h++) x[h] += block.scale * y[h];
}

int64_t widest(const LTIStack* p) {
  int64_t channels = 0;
  for (int64_t i = 0; i < p->count; i++)
    if (p->blocks[i].system.channels > channels) channels = p->blocks[i].system.channels;
  return (channels + 3) * p->features;
}

}  // namespace

// A task is one row. Blocks are the outer loop, so that the rows of a task share a weight while it is near.
extern "C" void JOIN(longstate_lti_stack_, ISA)(const LTIStack* p, float* const* memory, int64_t begin, int64_t end) {
  const int64_t H = p->features;
  const float *x = memory[0], *const *state = memory + 1;
  float *y = memory[1 + p->count], *const *next = memory + 2 + p->count;
  std::vector<float> scratch(widest(p));
  for (int64_t i = begin * H; i < end * H; i++) y[i] = x[i];
  for (int64_t i = 0; i < p->count; i++) {
    const int64_t size = H * p->blocks[i].system.states;
    for (int64_t row = begin; row < end; row++)
      through_block(p->blocks[i], H, state[i] + row * size, next[i] + row * size, y + row * H, scratch.data());
  }
  for (int64_t row = begin; row < end; row++) normalise(p->norm, H, y + row * H, y + row * H);
}
