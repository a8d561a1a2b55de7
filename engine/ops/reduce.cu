#include "engine/device/cuda/launch.cuh"
#include "engine/ops/reduce_kernels.h"

namespace glia::cuda {
namespace {

// One block an output element: threads take every kThreads-th input, then their sums are added in a fixed order.
template <class T>
__global__ void __launch_bounds__(kThreads) sum_kernel(ReduceShape s, const T* x, double factor, T* y) {
  using A = Accumulator<T>;
  __shared__ A shared[32];
  const int64_t r = blockIdx.x;
  const T* from = x + r / s.inner * s.n * s.inner + r % s.inner;
  A sum = 0;
  for (int64_t i = threadIdx.x; i < s.n; i += kThreads) sum += static_cast<A>(from[i * s.inner]);
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) y[r] = static_cast<T>(static_cast<A>(factor) * sum);
}

}  // namespace

template <class T>
void sum(const ReduceShape& s, const T* x, double factor, T* y, Stream stream) {
  using A = Accumulator<T>;
  const int64_t outputs = s.outer * s.inner;
  if (outputs == 0) return;
  if (s.n > 64 && outputs < (1 << 16)) {
    sum_kernel<<<static_cast<int>(outputs), kThreads, 0, stream>>>(s, x, factor, y);
    CUDA_CHECK_LAUNCH("sum", stream);
    return;
  }
  for_each("sum", outputs, stream, [=] __device__(int64_t r) {
    const T* from = x + r / s.inner * s.n * s.inner + r % s.inner;
    A total = 0;
    for (int64_t i = 0; i < s.n; ++i) total += static_cast<A>(from[i * s.inner]);
    y[r] = static_cast<T>(static_cast<A>(factor) * total);
  });
}

template <class T>
void sum_gradient(const ReduceShape& s, const T* dy, double factor, T* dx, Stream stream) {
  using A = Accumulator<T>;
  for_each("sum/gradient", s.outer * s.n * s.inner, stream, [=] __device__(int64_t i) {
    const int64_t row = i / s.inner;
    dx[i] = static_cast<T>(static_cast<A>(factor) * static_cast<A>(dy[row / s.n * s.inner + i % s.inner]));
  });
}

template <class T>
void max(const ReduceShape& s, const T* x, T* y, int32_t* where, Stream stream) {
  using A = Accumulator<T>;
  for_each("max", s.outer * s.inner, stream, [=] __device__(int64_t r) {
    const T* from = x + r / s.inner * s.n * s.inner + r % s.inner;
    int64_t best = 0;
    for (int64_t i = 1; i < s.n; ++i)
      if (static_cast<A>(from[i * s.inner]) > static_cast<A>(from[best * s.inner])) best = i;
    y[r] = from[best * s.inner];
    where[r] = static_cast<int32_t>(best);
  });
}

template <class T>
void max_gradient(const ReduceShape& s, const T* dy, const int32_t* where, T* dx, Stream stream) {
  for_each("max/gradient", s.outer * s.n * s.inner, stream, [=] __device__(int64_t i) {
    const int64_t j = i % s.inner, k = i / s.inner % s.n, r = i / s.inner / s.n * s.inner + j;
    dx[i] = k == where[r] ? dy[r] : static_cast<T>(0.0f);
  });
}

#define INSTANTIATE(T)                                                                     \
  template void sum(const ReduceShape&, const T*, double, T*, Stream);                     \
  template void sum_gradient(const ReduceShape&, const T*, double, T*, Stream);            \
  template void max(const ReduceShape&, const T*, T*, int32_t*, Stream);                   \
  template void max_gradient(const ReduceShape&, const T*, const int32_t*, T*, Stream);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace glia::cuda
