// Elementary functions without branches or calls, so that every compiler vectorises the loops around them.
#pragma once
#include <cstdint>
#include <cstring>

// e^x, relative error at most 1.2e-7. NaN stays NaN; below -87.3 it stays at 1.2e-38 instead of 0, and it overflows a
// little early, from about 88.4: harmless for decays. Range reduction by powers of 2, then a polynomial (Cephes).
static inline float fast_exp(float x) {
  x = x < -87.3f ? -87.3f : (x > 88.7f ? 88.7f : x);
  float k = x * 1.44269504089f + 12582912.f;
  uint32_t i;
  std::memcpy(&i, &k, 4);
  k -= 12582912.f;
  float r = x - k * 0.693359375f;
  r = r - k * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.f;
  uint32_t e = (i + 127u - 0x4B400000u) << 23;
  float s;
  std::memcpy(&s, &e, 4);
  return p * s;
}

// log(1 + e^x) = max(x, 0) + log(1 + t), t = e^-|x|; log(1 + t) = 2 atanh(t / (2 + t)), whose argument is at most 1/3.
static inline float fast_softplus(float x) {
  float t = fast_exp(x < 0.f ? x : -x);
  float s = t / (2.f + t), q = s * s;
  float p = 1.f / 15.f;
  p = p * q + 1.f / 13.f;
  p = p * q + 1.f / 11.f;
  p = p * q + 1.f / 9.f;
  p = p * q + 1.f / 7.f;
  p = p * q + 1.f / 5.f;
  p = p * q + 1.f / 3.f;
  p = p * q + 1.f;
  return (x > 0.f ? x : 0.f) + 2.f * s * p;
}

static inline float fast_sigmoid(float x) {
  float t = fast_exp(x < 0.f ? x : -x);
  float up = 1.f / (1.f + t);
  return x < 0.f ? t * up : up;
}

// e^(x + 2 i h) as re, im, and the real part of e^(x + 2 i h) - 1 without cancellation near 0:
// (m - 2 s^2 e^x) + 2 i s c e^x, m = e^x - 1, s = sin h, c = cos h. An absolute error of 2e-7 times e^x, up to |h| of
// about 8000; beyond, h has few digits after its point.
struct ComplexExp {
  float re, im, less_one;
};

static inline ComplexExp fast_complex_exp(float x, float h) {
  x = x < -87.3f ? -87.3f : (x > 88.7f ? 88.7f : x);
  float k = x * 1.44269504089f + 12582912.f;
  int32_t i;
  std::memcpy(&i, &k, 4);
  k -= 12582912.f;
  float r = x - k * 0.693359375f;
  r = r - k * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r;
  int32_t e = (i + 127 - 0x4B400000) << 23;
  float scale;
  std::memcpy(&scale, &e, 4);
  const float size = scale * p + scale, grown = scale * p + (scale - 1.f);
  // sin^2 h and sin h cos h have the period pi: what is left of h lies within pi / 2 of 0.
  float turns = h * 0.318309886184f + 12582912.f;
  turns -= 12582912.f;
  h = h - turns * 3.140625f;
  h = h - turns * 9.67502593994140625e-4f;
  h = h - turns * 1.509957990978376432e-7f;
  h = h < -1.6f ? -1.6f : (h > 1.6f ? 1.6f : h);
  const float q = h * h;
  float sine = -2.390959804e-8f;
  sine = sine * q + 2.752663936e-6f;
  sine = sine * q - 1.984089452e-4f;
  sine = sine * q + 8.333331327e-3f;
  sine = sine * q - 1.666666663e-1f;
  sine = sine * q * h + h;
  float cosine = -2.607710589e-7f;
  cosine = cosine * q + 2.476188631e-5f;
  cosine = cosine * q - 1.388840351e-3f;
  cosine = cosine * q + 4.166664073e-2f;
  cosine = cosine * q - 4.999999955e-1f;
  cosine = cosine * q + 1.f;
  const float twice = 2.f * size * sine;
  return {size - twice * sine, twice * cosine, grown - twice * sine};
}

// Relative error at most 2e-7: an odd polynomial below 1, 1 - e^polynomial above, 1 from 3.95 on.
static inline float fast_erf(float x) {
  float a = x < 0.f ? -x : x, s = x * x, t = a > 3.95f ? 3.95f : a;
  float inner = 7.882497448e-5f;
  inner = inner * s - 8.018855006e-4f;
  inner = inner * s + 5.189312156e-3f;
  inner = inner * s - 2.685432881e-2f;
  inner = inner * s + 1.128359735e-1f;
  inner = inner * s - 3.761262596e-1f;
  inner = inner * s + 1.128379107f;
  float outer = 1.6337532998e-6f;
  outer = outer * t - 4.5967859477e-5f;
  outer = outer * t + 5.9585028794e-4f;
  outer = outer * t - 4.7542052343e-3f;
  outer = outer * t + 2.6403229684e-2f;
  outer = outer * t - 1.1004405469e-1f;
  outer = outer * t - 6.3186906278e-1f;
  outer = outer * t - 1.1302055120f;
  outer = outer * t + 3.1260916148e-4f;
  outer = 1.f - fast_exp(outer);
  return a < 1.f ? inner * x : (x < 0.f ? -outer : outer);
}

static inline float fast_gelu(float x) { return 0.5f * x * (1.f + fast_erf(0.70710678119f * x)); }

// x (1 + tanh(z)) / 2 = x sigmoid(2 z), z = sqrt(2 / pi) (x + 0.044715 x^3).
static inline float fast_gelu_tanh(float x) {
  return x * fast_sigmoid(1.5957691216f * (x + 0.044715f * x * x * x));
}
