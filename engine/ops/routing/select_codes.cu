#include "engine/device/cuda/launch.cuh"
#include "engine/ops/routing/select_codes_kernels.h"

namespace glia::cuda {

template <class A> void select_codes(const CodeShape& s, const A* z, A* p, Stream stream) {
  for_each("select_codes", s.rows * s.experts, stream,
           [=] __device__(int64_t i) { p[i] = code_product(s, z + i / s.experts * s.bits, i % s.experts, -1); });
}

template <class A> void select_codes_gradient(const CodeShape& s, const A* z, const A* dp, A* dz, Stream stream) {
  for_each("select_codes/gradient", s.rows * s.bits, stream, [=] __device__(int64_t i) {
    dz[i] = code_gradient(s, z + i / s.bits * s.bits, dp + i / s.bits * s.experts, i % s.bits);
  });
}

#define INSTANTIATE(A)                                                \
  template void select_codes(const CodeShape&, const A*, A*, Stream); \
  template void select_codes_gradient(const CodeShape&, const A*, const A*, A*, Stream);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace glia::cuda
