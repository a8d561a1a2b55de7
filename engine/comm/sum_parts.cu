#include "engine/comm/sum_parts_kernels.h"
#include "engine/device/cuda/launch.cuh"

namespace glia::cuda {
namespace {

// Two packs a thread and rank in flight.
template <class T>
__global__ void __launch_bounds__(kThreads) sum_parts_kernel(const T* parts, int ranks, int64_t n, T* sum) {
  constexpr int kWidth = 16 / sizeof(T), kAhead = 2;
  using P = Pack<T, kWidth>;
  const int64_t base = (static_cast<int64_t>(blockIdx.x) * kThreads * kAhead + threadIdx.x) * kWidth;
  float total[kAhead][kWidth] = {};
  for (int r = 0; r < ranks; ++r) {
    P x[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int64_t i = base + int64_t{a} * kThreads * kWidth;
      if (i < n) x[a] = *reinterpret_cast<const P*>(parts + r * n + i);
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a)
#pragma unroll
      for (int k = 0; k < kWidth; ++k)
        total[a][k] = r == 0 ? static_cast<float>(x[a].v[k]) : total[a][k] + static_cast<float>(x[a].v[k]);
  }
#pragma unroll
  for (int a = 0; a < kAhead; ++a) {
    const int64_t i = base + int64_t{a} * kThreads * kWidth;
    if (i >= n) continue;
    P y;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) y.v[k] = static_cast<T>(total[a][k]);
    *reinterpret_cast<P*>(sum + i) = y;
  }
}

}  // namespace

template <class T> void sum_parts(const T* parts, int ranks, int64_t n, T* sum, Stream stream) {
  constexpr int64_t each = kThreads * 2 * (16 / sizeof(T));
  if (n == 0) return;
  launch("sum_parts", sum_parts_kernel<T>, {static_cast<unsigned>((n + each - 1) / each), kThreads}, stream, parts,
         ranks, n, sum);
}
template void sum_parts(const float*, int, int64_t, float*, Stream);
template void sum_parts(const bfloat16*, int, int64_t, bfloat16*, Stream);

}  // namespace glia::cuda
