// Elementary functions without branches or calls, so that every compiler vectorises the loops around them.
#pragma once
#include <cstdint>
#include <cstring>

// e^x, relative error at most 1.2e-7. NaN stays NaN; below -87.3 it stays at 1.2e-38 instead of 0, and it overflows a
// little early, from about 88.4: harmless for decays. Range reduction by powers of 2, then a polynomial (Cephes).
static inline float fast_exp(float x) {
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
  p = p * r * r + r + 1.f;
  int32_t e = (i + 127 - 0x4B400000) << 23;
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
