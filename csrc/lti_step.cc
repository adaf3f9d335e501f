// One step of a linear time-invariant system; compiled once for every instruction set (ISA names it).
//
//   x <- A x + B u,    y = Re(C x) + D u
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
  float re = 0.f, im = 0.f;
#pragma omp simd reduction(+ : re, im)
  for (int64_t n = 0; n < N; n += 2) {
    re += C[n] * x[n];
    im += C[n + 1] * x[n + 1];
  }
  return re - im;
}

}  // namespace

// A task is one feature of one row.
extern "C" void JOIN(longstate_lti_step_, ISA)(const LTIStep* p, int64_t begin, int64_t end) {
  const int64_t N = p->states, H = p->features, size = p->kind == kDense ? N * N : N;
  for (int64_t task = begin; task < end; task++) {
    const int64_t row = task / H, h = task % H;
    const float u = p->u[task], *x = p->state + task * N, *A = p->A + h * size, *B = p->B + h * N;
    float* next = p->next + task * N;
    if (p->kind == kReal)
      advance_real(N, u, A, B, x, next);
    else if (p->kind == kComplex)
      advance_complex(N, u, A, B, x, next);
    else
      advance_dense(N, u, A, B, x, next);
    for (int64_t c = 0; c < p->channels; c++) {
      const float* C = p->C + (c * H + h) * N;
      const float seen = p->kind == kComplex ? read_complex(N, C, next) : read_real(N, C, next);
      p->y[(row * p->channels + c) * H + h] = seen + p->D[c * H + h] * u;
    }
  }
}
