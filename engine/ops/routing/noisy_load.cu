#include "engine/device/cuda/launch.cuh"
#include "engine/ops/routing/noisy_load_kernels.h"

namespace glia::cuda {

template <class A>
void noisy_load(const NoisyLoadShape& s, const A* clean, const A* std, const A* noisy, A* p, Stream stream) {
  for_each("noisy_load", s.tokens, stream, [=] __device__(int64_t t) {
    const int64_t i = t * s.experts;
    noisy_load_row(clean + i, std + i, noisy + i, s.experts, s.k, p + i);
  });
}

template <class A>
void noisy_load_gradient(const NoisyLoadShape& s, const A* clean, const A* std, const A* noisy, const A* dp,
                         A* dclean, A* dstd, A* dnoisy, Stream stream) {
  for_each("noisy_load/gradient", s.tokens, stream, [=] __device__(int64_t t) {
    const int64_t i = t * s.experts;
    noisy_load_gradient_row(clean + i, std + i, noisy + i, dp + i, s.experts, s.k, dclean + i, dstd + i,
                            dnoisy + i);
  });
}

#define INSTANTIATE(A)                                                                                         \
  template void noisy_load(const NoisyLoadShape&, const A*, const A*, const A*, A*, Stream);                   \
  template void noisy_load_gradient(const NoisyLoadShape&, const A*, const A*, const A*, const A*, A*, A*, A*, \
                                    Stream);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace glia::cuda
