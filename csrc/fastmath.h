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
