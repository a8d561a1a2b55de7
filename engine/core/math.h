// Elementary functions for inner loops. The float versions have no branches, tables or calls, so g++ vectorises a
// loop over them without -ffast-math; on a GPU they are the CUDA library's; the double versions are the C library's
// everywhere. Errors against a double reference (tests/engine/core_math_test.cpp): at most 2 units in the last place, 3
// for tanh. The polynomials are near-minimax (Chebyshev) fits of the named remainder on the named interval.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "engine/core/host_device.h"

namespace glia::math {

// a · b + c, rounded once. Written out: g++ 12 contracts nothing under -ffp-contract=on, and half as many
// instructions matter.
GLIA_HD float fma(float a, float b, float c) {
#ifdef __CUDA_ARCH__
  return ::fmaf(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

GLIA_HD double exp(double x) { return ::exp(x); }
GLIA_HD double log(double x) { return ::log(x); }
GLIA_HD double log1p(double x) { return ::log1p(x); }
GLIA_HD double tanh(double x) { return ::tanh(x); }

#ifndef __CUDA_ARCH__
// e^x = 2^n e^r, n = round(x / ln 2), |r| <= ln 2 / 2.
struct ExpParts {
  float mantissa;    // e^r
  int32_t exponent;  // n + the bits of 1.5·2^23, whose sum with x / ln 2 has n in its low bits
};
GLIA_HD ExpParts exp_parts(float x) {
  const float shifted = fma(x, 1.44269504f, 12582912.0f), n = shifted - 12582912.0f;
  const float r =
      fma(n, 2.12194440e-4f, fma(n, -0.693359375f, x));  // ln 2 in two parts, the first exact in a product
  float p = 1.98919806e-4f;
  p = fma(p, r, 1.39345415e-3f);
  p = fma(p, r, 8.33331048e-3f);
  p = fma(p, r, 4.16664556e-2f);
  p = fma(p, r, 1.66666672e-1f);
  p = fma(p, r, 0.5f);
  return {fma(p, r * r, r) + 1.0f, std::bit_cast<int32_t>(shifted)};
}
#endif

// 2^n is multiplied in two halves, so that subnormal results and those just below the largest float come out right.
GLIA_HD float exp(float x) {
#ifdef __CUDA_ARCH__
  return ::expf(x);
#else
  x = x > 89.0f ? 89.0f : x;  // written so that NaN passes
  x = x < -104.0f ? -104.0f : x;
  const ExpParts e = exp_parts(x);
  const int32_t k = e.exponent - std::bit_cast<int32_t>(12582912.0f), half = k >> 1;
  return e.mantissa * std::bit_cast<float>((half + 127) << 23) * std::bit_cast<float>((k - half + 127) << 23);
#endif
}

// e^x for x <= 0 (softmax, Gaussians, saturating functions): cheaper, and 0 below −87.3, where e^x leaves the
// normal floats.
GLIA_HD double exp_negative(double x) { return ::exp(x); }
GLIA_HD float exp_negative(float x) {
#ifdef __CUDA_ARCH__
  return ::expf(x);
#else
  const ExpParts e = exp_parts(x);
  return x < -87.3f ? 0.0f : e.mantissa * std::bit_cast<float>((e.exponent << 23) + (127 << 23));
#endif
}

// ln x = k ln 2 + ln(1 + f), 1 + f in [√½, √2). Negative gives NaN, 0 gives −∞.
GLIA_HD float log(float x) {
#ifdef __CUDA_ARCH__
  return ::logf(x);
#else
  const bool subnormal = x < 1.17549435e-38f;
  const float scaled = subnormal ? x * 8388608.0f : x;
  const int32_t bits = std::bit_cast<int32_t>(scaled);
  const int32_t above =
      (bits - 0x3f3504f3) >> 23;  // 0x3f3504f3 = √½: the exponent k with the mantissa where it should be
  const float f = std::bit_cast<float>(bits - above * (1 << 23)) - 1.0f;
  const float k = static_cast<float>(above - (subnormal ? 23 : 0));
  float p = 6.97161183e-2f;
  p = fma(p, f, -1.14797339e-1f);
  p = fma(p, f, 1.16854198e-1f);
  p = fma(p, f, -1.24256872e-1f);
  p = fma(p, f, 1.42490581e-1f);
  p = fma(p, f, -1.66678026e-1f);
  p = fma(p, f, 2.00007156e-1f);
  p = fma(p, f, -2.49999970e-1f);
  p = fma(p, f, 3.33333313e-1f);
  const float z = f * f;
  float y = fma(p * f, z, k * -2.12194440e-4f);
  y = fma(k, 0.693359375f, fma(-0.5f, z, y) + f);
  y = x > 3.40282347e38f ? x : y;  // +∞
  y = x == 0.0f ? -std::numeric_limits<float>::infinity() : y;
  return x >= 0.0f ? y : std::numeric_limits<float>::quiet_NaN();
#endif
}

// ln(1 + t) for t in [0, 1]: 2 artanh(s), s = t / (2 + t) <= 1/3.
GLIA_HD float log1p_unit(float t) {
  const float s = t / (2.0f + t), z = s * s;
  float p = 1.16121650e-1f;
  p = fma(p, z, 1.08532876e-1f);
  p = fma(p, z, 1.42961785e-1f);
  p = fma(p, z, 1.99998528e-1f);
  p = fma(p, z, 3.33333343e-1f);
  return 2.0f * fma(s * z, p, s);
}
GLIA_HD double log1p_unit(double t) { return ::log1p(t); }

// Below 0.625 an odd polynomial, above it 1 − 2 e^−2x / (1 + e^−2x).
GLIA_HD float tanh(float x) {
#ifdef __CUDA_ARCH__
  return ::tanhf(x);
#else
  const float z = x * x, magnitude = x < 0 ? -x : x;
  float p = 2.29274481e-3f;
  p = fma(p, z, -8.34394526e-3f);
  p = fma(p, z, 2.17689183e-2f);
  p = fma(p, z, -5.39592579e-2f);
  p = fma(p, z, 1.33333042e-1f);
  p = fma(p, z, -3.33333343e-1f);
  const float small = fma(x * z, p, x);
  const float e = exp_negative(-2.0f * magnitude), large = 1.0f - 2.0f * e / (1.0f + e);
  return magnitude < 0.625f ? small : x < 0 ? -large : large;
#endif
}

// The standard normal's density φ(x) and distribution function Φ(x) from one exponential: for u = |x| the tail is
// Φ(−u) = e^(−u²/2) P(s), s = u / (4 + u), P(0) = ½. Expanding at u = 0 keeps the error in Φ below 1e-7, and the
// tail keeps its relative accuracy (4e-6) where ½ (1 + erf) would cancel.
struct Normal {
  float cdf, pdf;
};
GLIA_HD Normal normal(float x) {
  const float magnitude = x < 0 ? -x : x, u = magnitude > 100.0f ? 100.0f : magnitude;  // ∞/∞ would be NaN
  const float e = exp_negative(-0.5f * (x * x));
#ifdef __CUDA_ARCH__
  const float s = __fdividef(u, 4.0f + u);
#else
  const float s = u / (4.0f + u);
#endif
  float p = -3.82749513e-2f;
  p = fma(p, s, 1.24770276e-1f);
  p = fma(p, s, -7.07069859e-2f);
  p = fma(p, s, -1.91196948e-1f);
  p = fma(p, s, 1.01000510e-1f);
  p = fma(p, s, 8.72484148e-1f);
  p = fma(p, s, -2.10657668f);
  p = fma(p, s, 2.40423203f);
  p = fma(p, s, -1.59576917f);
  p = fma(p, s, 0.5f);
  const float tail = e * p;
  return {x < 0 ? tail : 1.0f - tail, 0.398942280f * e};
}

struct NormalDouble {
  double cdf, pdf;
};
GLIA_HD NormalDouble normal(double x) {
  return {0.5 * ::erfc(-x * 0.70710678118654752), 0.39894228040143268 * ::exp(-0.5 * x * x)};
}

}  // namespace glia::math
