#include "engine/device/cuda/launch.cuh"
#include "engine/ops/norm/normalise_rows_kernels.h"

namespace glia::cuda {

template <class N, class A>
void normalise_rows(N, const A* x, int64_t rows, int64_t n, A* y, A* norms, Stream stream) {
  for_each(N::kName, rows, stream,
           [=] __device__(int64_t t) { normalise_row<N>(x + t * n, n, y + t * n, norms + t); });
}

template <class N, class A>
void normalise_gradient(N, const A* y, const A* norms, const A* dy, int64_t rows, int64_t n, A* dx, Stream stream) {
  for_each(N::kGradient, rows, stream,
           [=] __device__(int64_t t) { N::gradient(y + t * n, dy + t * n, norms[t], n, dx + t * n); });
}

#define INSTANTIATE(N, A)                                                      \
  template void normalise_rows(N, const A*, int64_t, int64_t, A*, A*, Stream); \
  template void normalise_gradient(N, const A*, const A*, const A*, int64_t, int64_t, A*, Stream);
INSTANTIATE(ShareNorm, float)
INSTANTIATE(ShareNorm, double)
INSTANTIATE(UnitNorm, float)
INSTANTIATE(UnitNorm, double)
#undef INSTANTIATE

}  // namespace glia::cuda
