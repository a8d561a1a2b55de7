#include <limits>

#include "engine/ops/rows/packs.cuh"
#include "engine/ops/rows/topk_kernels.h"

namespace glia::cuda {
namespace {

// One warp a row, k passes: each finds the best element that comes after the last one found in the order (larger value,
// then lower index). No state but that last one, so any n and k work; for routers n is 8 … 128 and k 1 … 8.
template <class T>
__global__ void __launch_bounds__(kThreads)
    top_k_kernel(const T* x, T* values, int32_t* indices, int64_t rows, int32_t n, int32_t k) {
  using A = Accumulator<T>;
  constexpr A kLowest = -std::numeric_limits<A>::infinity();
  const int lane = threadIdx.x % 32;
  for (int64_t r = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32; r < rows;
       r += static_cast<int64_t>(gridDim.x) * (kThreads / 32)) {
    const T* row = x + r * n;
    A last = 0;
    int32_t last_index = -1;
    for (int32_t i = 0; i < k; ++i) {
      A best = kLowest;
      int32_t best_index = n;  // nobody
      for (int32_t j = lane; j < n; j += 32) {
        A v = static_cast<A>(row[j]);
        v = v == v ? v : kLowest;
        const bool open = i == 0 || v < last || (v == last && j > last_index);
        if (open && (v > best || (v == best && j < best_index))) best = v, best_index = j;
      }
#pragma unroll
      for (int offset = 16; offset > 0; offset >>= 1) {
        const A v = __shfl_xor_sync(0xffffffffu, best, offset);
        const int32_t j = __shfl_xor_sync(0xffffffffu, best_index, offset);
        if (v > best || (v == best && j < best_index)) best = v, best_index = j;
      }
      last = best, last_index = best_index;
      if (lane == 0) {
        indices[r * k + i] = best_index;
        values[r * k + i] = row[best_index];
      }
    }
  }
}

}  // namespace

template <class T>
void top_k(const T* x, T* values, int32_t* indices, int64_t rows, int64_t n, int64_t k, Stream stream) {
  if (rows == 0) return;
  launch("top_k", top_k_kernel<T>, {grid_for(rows, kThreads / 32), kThreads}, stream, x, values, indices, rows,
         static_cast<int32_t>(n), static_cast<int32_t>(k));
}

template <class T>
void scatter_last(const T* values, const int32_t* indices, T* y, int64_t rows, int64_t n, int64_t k,
                  Stream stream) {
  if (rows * n == 0) return;
  CUDA_CHECK(cudaMemsetAsync(y, 0, rows * n * sizeof(T), stream));
  for_each("scatter_last", rows * k, stream, [=] __device__(int64_t i) {
    const int32_t j = indices[i];
    if (j >= 0 && j < n) y[i / k * n + j] = values[i];
  });
}

template <class T>
void gather_last(const T* x, const int32_t* indices, T* values, int64_t rows, int64_t n, int64_t k, Stream stream) {
  for_each("gather_last", rows * k, stream, [=] __device__(int64_t i) {
    const int32_t j = indices[i];
    values[i] = j >= 0 && j < n ? x[i / k * n + j] : static_cast<T>(0.0f);
  });
}

#define INSTANTIATE(T)                                                                         \
  template void top_k(const T*, T*, int32_t*, int64_t, int64_t, int64_t, Stream);              \
  template void scatter_last(const T*, const int32_t*, T*, int64_t, int64_t, int64_t, Stream); \
  template void gather_last(const T*, const int32_t*, T*, int64_t, int64_t, int64_t, Stream);
GLIA_FOR_FLOATING(INSTANTIATE)
#undef INSTANTIATE

}  // namespace glia::cuda
