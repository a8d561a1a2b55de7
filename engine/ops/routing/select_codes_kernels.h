// Kernels of select_codes.cpp; a row is a selector of a token.
#pragma once
#include <cstdint>

#include "engine/core/host_device.h"
#include "engine/device/stream.h"

namespace glia {

struct CodeShape {
  int64_t rows, bits, experts;
  double gamma;
};

template <class A> GLIA_HD A smooth_step(A z, A gamma) {
  if (z <= -gamma / 2) return A(0);
  if (z >= gamma / 2) return A(1);
  const A u = z / gamma;
  return A(-2) * u * u * u + A(1.5) * u + A(0.5);
}
template <class A> GLIA_HD A smooth_step_slope(A z, A gamma) {
  if (z <= -gamma / 2 || z >= gamma / 2) return A(0);
  const A u = z / gamma;
  return (A(-6) * u * u + A(1.5)) / gamma;
}

// Π over the bits but `without` (−1: over all) of what z says of expert e's number.
template <class A> GLIA_HD A code_product(const CodeShape& s, const A* z, int64_t e, int64_t without) {
  A product = 1;
  for (int64_t b = 0; b < s.bits; ++b) {
    if (b == without) continue;
    const A on = smooth_step(z[b], static_cast<A>(s.gamma));
    product *= e >> b & 1 ? on : A(1) - on;
  }
  return product;
}

// dz_b = S'(z_b) Σ_e ± dp_e Π of the other bits
template <class A> GLIA_HD A code_gradient(const CodeShape& s, const A* z, const A* dp, int64_t b) {
  const A slope = smooth_step_slope(z[b], static_cast<A>(s.gamma));
  if (slope == A(0)) return A(0);
  A sum = 0;
  for (int64_t e = 0; e < s.experts; ++e) sum += (e >> b & 1 ? dp[e] : -dp[e]) * code_product(s, z, e, b);
  return slope * sum;
}

namespace cpu {
template <class A> void select_codes(const CodeShape& s, const A* z, A* p);                         // [R, E] =
template <class A> void select_codes_gradient(const CodeShape& s, const A* z, const A* dp, A* dz);  // [R, m] =
}  // namespace cpu
namespace cuda {
template <class A> void select_codes(const CodeShape& s, const A* z, A* p, Stream stream);
template <class A> void select_codes_gradient(const CodeShape& s, const A* z, const A* dp, A* dz, Stream stream);
}  // namespace cuda

}  // namespace glia
