#include "engine/device/cuda/launch.cuh"
#include "engine/ops/adamw_kernels.h"

namespace glia::cuda {
namespace {

// One chunk a block; the order of the additions is fixed by the thread's number.
template <class T>
__global__ void __launch_bounds__(kThreads)
    squared_sums_kernel(const T* __restrict__ g, int64_t n, double* __restrict__ partial) {
  constexpr int kWidth = 16 / sizeof(T);
  using P = Pack<T, kWidth>;
  __shared__ double shared[32];
  const int64_t begin = blockIdx.x * kNormChunk, end = min(n, begin + kNormChunk);
  double sum = 0;
#pragma unroll 4
  for (int64_t i = begin + threadIdx.x * kWidth; i < end; i += kThreads * kWidth) {
    const P x = *reinterpret_cast<const P*>(g + i);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sum = fma(static_cast<double>(x.v[k]), static_cast<double>(x.v[k]), sum);
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(1024)
    factors_kernel(AdamWOptions o, const uint32_t* step, const double* partial, int64_t chunks, double* factors) {
  __shared__ double shared[32];
  double sum = 0;
  for (int64_t c = threadIdx.x; c < chunks; c += blockDim.x) sum += partial[c];
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) glia::adamw_factors(o, *step, sum, factors);
}

// 16 bytes of each of p, m, v and g (8 of a bfloat16 g, a whole 32-byte sector every four threads) a thread and turn, two
// turns in flight.
template <class T, class G>
__global__ void __launch_bounds__(kThreads)
    update_kernel(AdamWOptions o, const double* __restrict__ factors, T* __restrict__ p, T* __restrict__ m,
                  T* __restrict__ v, const G* __restrict__ g, bfloat16* __restrict__ copy, int64_t decayed,
                  int64_t n) {
  if (factors[adamw_factor::kApply] == 0) return;
  constexpr int kWidth = 16 / sizeof(T), kTurns = 2;
  using P = Pack<T, kWidth>;
  const AdamWUpdate<T> update(o, factors);
  const int64_t base = (blockIdx.x * static_cast<int64_t>(kThreads) * kTurns + threadIdx.x) * kWidth;
  P a[kTurns], b[kTurns], c[kTurns];
  Pack<G, kWidth> d[kTurns];
#pragma unroll
  for (int t = 0; t < kTurns; ++t) {
    const int64_t i = base + t * kThreads * kWidth;
    if (i >= n) break;
    a[t] = *reinterpret_cast<const P*>(p + i);
    b[t] = *reinterpret_cast<const P*>(m + i);
    c[t] = *reinterpret_cast<const P*>(v + i);
    d[t] = *reinterpret_cast<const Pack<G, kWidth>*>(g + i);
  }
#pragma unroll
  for (int t = 0; t < kTurns; ++t) {
    const int64_t i = base + t * kThreads * kWidth;
    if (i >= n) break;
    const bool decay = i < decayed;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) update.apply(a[t].v[k], b[t].v[k], c[t].v[k], static_cast<T>(d[t].v[k]), decay);
    *reinterpret_cast<P*>(p + i) = a[t];
    *reinterpret_cast<P*>(m + i) = b[t];
    *reinterpret_cast<P*>(v + i) = c[t];
    if (copy) {
      Pack<bfloat16, kWidth> low;
#pragma unroll
      for (int k = 0; k < kWidth; ++k) low.v[k] = static_cast<bfloat16>(a[t].v[k]);
      *reinterpret_cast<Pack<bfloat16, kWidth>*>(copy + i) = low;
    }
  }
}

}  // namespace

template <class T>
void squared_sums(const T* g, int64_t n, double* partial, Stream stream) {
  if (n == 0) return;
  squared_sums_kernel<<<static_cast<int>((n + kNormChunk - 1) / kNormChunk), kThreads, 0, stream>>>(g, n, partial);
  CUDA_CHECK_LAUNCH("squared_sums", stream);
}

void adamw_factors(const AdamWOptions& o, const uint32_t* step, const double* partial, int64_t chunks,
                   double* factors, Stream stream) {
  factors_kernel<<<1, 1024, 0, stream>>>(o, step, partial, chunks, factors);
  CUDA_CHECK_LAUNCH("adamw_factors", stream);
}

template <class T, class G>
void adamw_update(const AdamWOptions& o, const double* factors, T* p, T* m, T* v, const G* g, bfloat16* copy,
                  int64_t decayed, int64_t n, Stream stream) {
  if (n == 0) return;
  constexpr int64_t kPerBlock = kThreads * 2 * (16 / sizeof(T));
  update_kernel<<<static_cast<int>((n + kPerBlock - 1) / kPerBlock), kThreads, 0, stream>>>(o, factors, p, m, v, g,
                                                                                            copy, decayed, n);
  CUDA_CHECK_LAUNCH("adamw_update", stream);
}

template void squared_sums(const bfloat16*, int64_t, double*, Stream);
#define INSTANTIATE(T, G)                                                                                  \
  template void adamw_update(const AdamWOptions&, const double*, T*, T*, T*, const G*, bfloat16*, int64_t, \
                             int64_t, Stream);
#define INSTANTIATE_BOTH(T)                                       \
  template void squared_sums(const T*, int64_t, double*, Stream); \
  INSTANTIATE(T, T)                                               \
  INSTANTIATE(T, bfloat16)
INSTANTIATE_BOTH(float)
INSTANTIATE_BOTH(double)
#undef INSTANTIATE_BOTH
#undef INSTANTIATE

}  // namespace glia::cuda
