#include "engine/core/rng.h"
#include "engine/device/cuda/launch.cuh"
#include "engine/ops/random_fill_kernels.h"

namespace glia::cuda {

template <class T>
void fill_normal(T* x, int64_t n, const NormalFill& f, Stream stream) {
  for_each("fill_normal", n, stream, [=] __device__(int64_t i) {
    const double z = random_normal(f.seed, f.purpose, f.step, static_cast<uint64_t>(i));
    x[i] = static_cast<T>(fma(f.std, z, f.add ? static_cast<double>(x[i]) : 0.0));
  });
}

template void fill_normal(float*, int64_t, const NormalFill&, Stream);
template void fill_normal(double*, int64_t, const NormalFill&, Stream);
template void fill_normal(bfloat16*, int64_t, const NormalFill&, Stream);

}  // namespace glia::cuda
