#include "engine/ops/elementwise/dropout_kernels.h"
#include "engine/ops/elementwise/dropout_mask.cuh"

namespace glia::cuda {
namespace {

template <class T> struct Dropout {
  const T* x;
  T* y;
  RandomKey key;
  uint32_t threshold;
  Accumulator<T> scale;
  template <int W> __device__ void operator()(Width<W>, int64_t i) const {
    Accumulator<T> v[W];
    load<W>(x + i, v);
    DropoutMask<Accumulator<T>>(key, threshold, scale).apply(i, v);
    store<W>(y + i, v);
  }
};

}  // namespace

template <class T> void dropout(const T* x, T* y, int64_t n, double p, const RandomKey& key, Stream stream) {
  const Dropout<T> f{x, y, key, bernoulli_threshold(p), static_cast<Accumulator<T>>(1 / (1 - p))};
  for_each_pack<kPackWidth<T>>("dropout", n, aligned16(x, y), stream, f);
}

template void dropout(const float*, float*, int64_t, double, const RandomKey&, Stream);
template void dropout(const double*, double*, int64_t, double, const RandomKey&, Stream);
template void dropout(const bfloat16*, bfloat16*, int64_t, double, const RandomKey&, Stream);

}  // namespace glia::cuda
