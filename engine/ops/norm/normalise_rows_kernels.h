// Kernels of normalise_rows.cpp.
#pragma once
#include <cmath>
#include <cstdint>

#include "engine/core/host_device.h"
#include "engine/device/stream.h"

namespace glia {

// A norm of a row: its value, and the gradient dx of x / value from dy and y.
struct ShareNorm {
  static constexpr const char *kName = "share_rows", *kGradient = "share_rows/gradient";
  template <class A> static GLIA_HD A norm(const A* x, int64_t n) {
    A sum = A(1e-20);
    for (int64_t i = 0; i < n; ++i) sum += x[i];
    return sum;
  }
  // dx_n = (dy_n − Σ_m dy_m y_m) / norm
  template <class A> static GLIA_HD void gradient(const A* y, const A* dy, A norm, int64_t n, A* dx) {
    A along = 0;
    for (int64_t i = 0; i < n; ++i) along += dy[i] * y[i];
    for (int64_t i = 0; i < n; ++i) dx[i] = (dy[i] - along) / norm;
  }
};

struct UnitNorm {
  static constexpr const char *kName = "unit_rows", *kGradient = "unit_rows/gradient";
  template <class A> static GLIA_HD A norm(const A* x, int64_t n) {
    A sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
    const A root = sqrt(sum);
    return root > A(1e-12) ? root : A(1e-12);
  }
  // dx_n = (dy_n − y_n Σ_m dy_m y_m) / norm
  template <class A> static GLIA_HD void gradient(const A* y, const A* dy, A norm, int64_t n, A* dx) {
    A along = 0;
    for (int64_t i = 0; i < n; ++i) along += dy[i] * y[i];
    for (int64_t i = 0; i < n; ++i) dx[i] = (dy[i] - y[i] * along) / norm;
  }
};

// Row t by itself: y and its norm, and back.
template <class N, class A> GLIA_HD void normalise_row(const A* x, int64_t n, A* y, A* norm) {
  *norm = N::norm(x, n);
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] / *norm;
}

namespace cpu {
// x [T, N]; y [T, N] =, norms [T] =
template <class N, class A> void normalise_rows(N, const A* x, int64_t rows, int64_t n, A* y, A* norms);
template <class N, class A>  // dx [T, N] =
void normalise_gradient(N, const A* y, const A* norms, const A* dy, int64_t rows, int64_t n, A* dx);
}  // namespace cpu
namespace cuda {
template <class N, class A>
void normalise_rows(N, const A* x, int64_t rows, int64_t n, A* y, A* norms, Stream stream);
template <class N, class A>
void normalise_gradient(N, const A* y, const A* norms, const A* dy, int64_t rows, int64_t n, A* dx, Stream stream);
}  // namespace cuda

}  // namespace glia
