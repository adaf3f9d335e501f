// Elementary functions of vectors of lanes, without branches; relative errors at most 3e-7, and NaN stays NaN.
#pragma once
#if defined(__AVX512F__) && !defined(_MSC_VER)
#include <immintrin.h>
#endif

#include "lanes.h"

namespace {

#if defined(_MSC_VER)
typedef int32_t ints;
#else
typedef int32_t ints __attribute__((vector_size(kLanes * sizeof(float))));
#endif

#if defined(__AVX512F__) && !defined(_MSC_VER)
constexpr __mmask16 kAll = 0xFFFF;  // the unmasked intrinsics make gcc warn of what they leave undefined
#endif
constexpr float kToInteger = 12582912.f;  // 1.5 2^23: numbers below 2^22 lose what is behind their point beside it

// What is at least `low`, or NaN.
inline vec at_least(float low, vec x) {
#if defined(__AVX512F__) && !defined(_MSC_VER)
  return _mm512_mask_max_ps(x, kAll, _mm512_set1_ps(low), x);
#else
  return x < low ? zero() + low : x;
#endif
}

// 2^k 2^r for an integer k = `shifted` - kToInteger from -126 on, and r within 1/2 of 0.
inline vec power_of_two(vec shifted, vec r) {
  vec p = zero() + 1.326472731e-3f;
  p = p * r + 9.671512991e-3f;
  p = p * r + 5.550733581e-2f;
  p = p * r + 2.402224243e-1f;
  p = p * r + 6.931470037e-1f;
  p = p * r + 1.f;
#if defined(__AVX512F__) && !defined(_MSC_VER)
  return _mm512_mask_scalef_ps(p, kAll, p, shifted - kToInteger);
#else
  ints e;
  std::memcpy(&e, &shifted, sizeof(e));
  e = (e + (127 - 0x4B400000)) << 23;
  vec scale;
  std::memcpy(&scale, &e, sizeof(scale));
  return p * scale;
#endif
}

// 2^(x y). Where that is below 2^-126 it is 2^-126, or goes to 0.
inline vec exp2_of_product(vec x, vec y) {
#if defined(__AVX512F__) && !defined(_MSC_VER)
  const vec shifted = x * y + kToInteger;
  return power_of_two(shifted, x * y - (shifted - kToInteger));
#else
  vec z = at_least(-126.f, x * y);
  z = z > 128.f ? zero() + 128.f : z;
  const vec shifted = z + kToInteger;
  return power_of_two(shifted, z - (shifted - kToInteger));
#endif
}

// e^x for x up to 0; 2^-126 at least.
inline vec exp_of_negative(vec x) {
  x = at_least(-87.3f, x);
  const vec shifted = x * 1.44269504f + kToInteger, k = shifted - kToInteger;
  const vec r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
  return power_of_two(shifted, r * 1.44269504f);
}

// 1 / x for x in [1, 2].
inline vec inverse(vec x) {
#if defined(__AVX512F__) && !defined(_MSC_VER)
  const vec y = _mm512_mask_rcp14_ps(x, kAll, x);
  return y + y * (1.f - x * y);
#else
  return 1.f / x;
#endif
}

inline vec minus_magnitude(vec x) { return x < 0.f ? x : -x; }

inline vec sigmoid(vec x) {
  const vec t = exp_of_negative(minus_magnitude(x)), up = inverse(1.f + t);
  return x < 0.f ? t * up : up;
}

struct Softplus {
  vec value, slope;
};

// log(1 + e^x) = max(x, 0) + log(1 + t), t = e^-|x|; and its derivative, which nobody pays for who does not look.
inline Softplus softplus(vec x) {
  const vec t = exp_of_negative(minus_magnitude(x)), up = inverse(1.f + t);
  vec p = zero() + 5.364826415e-3f;
  p = p * t - 3.006580099e-2f;
  p = p * t + 7.920455188e-2f;
  p = p * t - 1.375380307e-1f;
  p = p * t + 1.915365607e-1f;
  p = p * t - 2.485716343e-1f;
  p = p * t + 3.332132399e-1f;
  p = p * t - 4.999964833e-1f;
  p = p * t + 1.f;
  return {(x > 0.f ? x : zero()) + t * p, x < 0.f ? t * up : up};
}

// The share of a normal distribution below x; an absolute error of 6e-8. Below -a it is 2^P(a), for a from 0.
inline vec normal_below(vec x) {
  const vec a = x < 0.f ? -x : x;
  vec p = zero() + 2.002996808e-7f;
  p = p * a - 4.771659405e-6f;
  p = p * a + 4.533842366e-5f;
  p = p * a - 1.890411222e-4f;
  p = p * a - 1.560409146e-4f;
  p = p * a + 7.102513220e-3f;
  p = p * a - 5.252554640e-2f;
  p = p * a - 4.591992795e-1f;
  p = p * a - 1.151106000f;
  p = p * a - 1.f;
  const vec shifted = p + kToInteger;
  vec tail = power_of_two(shifted, p - (shifted - kToInteger));
  tail = a < 5.58f ? tail : zero();
  return x < 0.f ? tail : 1.f - tail;
}

struct ValueSlope {
  vec value, slope;
};

// x times that share; its derivative is the share and x times the density.
inline ValueSlope gelu(vec x) {
  const vec share = normal_below(x);
  return {x * share, share + x * (0.3989422804f * exp_of_negative(-0.5f * x * x))};
}

// x (1 + tanh(z)) / 2 = x sigmoid(2 z), z = sqrt(2 / pi) (x + 0.044715 x^3).
inline ValueSlope gelu_tanh(vec x) {
  const vec q = x * x, s = sigmoid(1.5957691216f * x * (1.f + 0.044715f * q));
  return {x * s, s + x * s * (1.f - s) * (1.5957691216f * (1.f + 0.134145f * q))};
}

}  // namespace
