#include "engine/core/random/rng.h"
#include "engine/device/cuda/launch.cuh"
#include "engine/ops/elementwise/random_fill_kernels.h"

namespace glia::cuda {

template <class T> void fill_normal(T* x, int64_t n, const NormalFill& f, Stream stream) {
  for_each("fill_normal", n, stream, [=] __device__(int64_t i) {
    const double z = random_normal(f.seed, f.purpose, f.step, static_cast<uint64_t>(i));
    x[i] = static_cast<T>(fma(f.std, z, f.add ? static_cast<double>(x[i]) : 0.0));
  });
}

template <class T> void fill_uniform(T* x, int64_t n, const UniformFill& f, Stream stream) {
  for_each("fill_uniform", n, stream, [=] __device__(int64_t i) { x[i] = static_cast<T>(uniform_element(f, i)); });
}

template <class T> void fill_bernoulli(T* x, int64_t n, double p, const UniformFill& f, Stream stream) {
  const uint32_t threshold = bernoulli_threshold(p);
  for_each("fill_bernoulli", n, stream, [=] __device__(int64_t i) {
    x[i] =
        static_cast<T>(random_bits(f.seed, f.purpose, f.step, static_cast<uint64_t>(i)) < threshold ? 1.0f : 0.0f);
  });
}

void fill_bits(int32_t* x, int64_t n, const UniformFill& f, Stream stream) {
  for_each("fill_bits", n, stream, [=] __device__(int64_t i) {
    x[i] = static_cast<int32_t>(random_bits(f.seed, f.purpose, f.step, static_cast<uint64_t>(i)));
  });
}

#define INSTANTIATE(T)                                                 \
  template void fill_uniform(T*, int64_t, const UniformFill&, Stream); \
  template void fill_bernoulli(T*, int64_t, double, const UniformFill&, Stream);
GLIA_FOR_FLOATING(INSTANTIATE)
#undef INSTANTIATE
template void fill_normal(float*, int64_t, const NormalFill&, Stream);
template void fill_normal(double*, int64_t, const NormalFill&, Stream);
template void fill_normal(bfloat16*, int64_t, const NormalFill&, Stream);

}  // namespace glia::cuda
