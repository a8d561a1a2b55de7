#include "engine/device/cuda/launch.cuh"
#include "engine/tensor_kernels.h"

namespace glia::cuda {

template <class From, class To> void cast(const From* x, To* y, int64_t n, Stream stream) {
  for_each("cast", n, stream,
           [=] __device__(int64_t i) { y[i] = static_cast<To>(static_cast<Accumulator<From>>(x[i])); });
}

template <class T> void accumulate(T* sum, const T* term, int64_t n, Stream stream) {
  using A = Accumulator<T>;
  constexpr int kWidth = 16 / sizeof(T);
  const int64_t packs =
      reinterpret_cast<uintptr_t>(sum) % 16 || reinterpret_cast<uintptr_t>(term) % 16 ? 0 : n / kWidth;
  for_each("accumulate", packs, stream, [=] __device__(int64_t i) {
    using P = Pack<T, kWidth>;
    P a = reinterpret_cast<const P*>(sum)[i], b = reinterpret_cast<const P*>(term)[i];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) a.v[k] = static_cast<T>(static_cast<A>(a.v[k]) + static_cast<A>(b.v[k]));
    reinterpret_cast<P*>(sum)[i] = a;
  });
  const int64_t done = packs * kWidth;
  for_each("accumulate", n - done, stream, [=] __device__(int64_t i) {
    sum[done + i] = static_cast<T>(static_cast<A>(sum[done + i]) + static_cast<A>(term[done + i]));
  });
}

template <class T> void sum_of(const Terms<T>& terms, T* y, int64_t n, Stream stream) {
  using A = Accumulator<T>;
  constexpr int kWidth = 16 / sizeof(T);
  uintptr_t bits = reinterpret_cast<uintptr_t>(y);
  for (int k = 0; k < terms.count; ++k) bits |= reinterpret_cast<uintptr_t>(terms.term[k]);
  const int64_t packs = bits % 16 ? 0 : n / kWidth, done = packs * kWidth;
  for_each("sum_of", packs, stream, [=] __device__(int64_t i) {
    using P = Pack<T, kWidth>;
    A sum[kWidth] = {};
    for (int t = 0; t < terms.count; ++t) {
      const P p = reinterpret_cast<const P*>(terms.term[t])[i];
#pragma unroll
      for (int k = 0; k < kWidth; ++k) sum[k] += static_cast<A>(p.v[k]);
    }
    P out;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) out.v[k] = static_cast<T>(sum[k]);
    reinterpret_cast<P*>(y)[i] = out;
  });
  for_each("sum_of", n - done, stream, [=] __device__(int64_t i) {
    A sum = 0;
    for (int t = 0; t < terms.count; ++t) sum += static_cast<A>(terms.term[t][done + i]);
    y[done + i] = static_cast<T>(sum);
  });
}

template <class T> void fill(T* x, double value, int64_t n, Stream stream) {
  const T v = static_cast<T>(value);
  for_each("fill", n, stream, [=] __device__(int64_t i) { x[i] = v; });
}

template <class T> void count_not_finite(const T* x, int* count, int64_t n, Stream stream) {
  for_each("count_not_finite", n, stream, [=] __device__(int64_t i) {
    if (!isfinite(static_cast<Accumulator<T>>(x[i]))) atomicAdd(count, 1);  // an integer: the order does not matter
  });
}

#define INSTANTIATE(T)                                        \
  template void cast(const T*, float*, int64_t, Stream);      \
  template void cast(const T*, double*, int64_t, Stream);     \
  template void cast(const T*, bfloat16*, int64_t, Stream);   \
  template void accumulate(T*, const T*, int64_t, Stream);    \
  template void sum_of(const Terms<T>&, T*, int64_t, Stream); \
  template void fill(T*, double, int64_t, Stream);            \
  template void count_not_finite(const T*, int*, int64_t, Stream);
GLIA_FOR_FLOATING(INSTANTIATE)
template void fill(int32_t*, double, int64_t, Stream);
#undef INSTANTIATE

}  // namespace glia::cuda
