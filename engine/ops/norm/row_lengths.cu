#include "engine/ops/norm/row_lengths_kernels.h"
#include "engine/ops/rows/packs.cuh"

namespace glia::cuda {
namespace {

// A warp a row, W columns a lane at a time.
template <int W, class T>
__global__ void __launch_bounds__(kThreads)
    row_lengths_kernel(const T* x, int64_t rows, int64_t n, Accumulator<T>* y) {
  using A = Accumulator<T>;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / 32);
  const int lane = threadIdx.x % 32;
  for (int64_t r = blockIdx.x * static_cast<int64_t>(kThreads / 32) + threadIdx.x / 32; r < rows; r += warps) {
    A sum = 0;
#pragma unroll 4
    for (int64_t i = lane * W; i < n; i += 32 * W) {
      A v[W];
      load<W>(x + r * n + i, v);
#pragma unroll
      for (int k = 0; k < W; ++k) sum += v[k] * v[k];
    }
    sum = warp_sum(sum);
    if (lane == 0) y[r] = sqrt(sum + static_cast<A>(kLeastSquare));
  }
}

template <int W, class T>
__global__ void __launch_bounds__(kThreads)
    row_lengths_gradient_kernel(const T* x, const Accumulator<T>* y, const Accumulator<T>* dy, int64_t rows,
                                int64_t n, T* dx) {
  using A = Accumulator<T>;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / 32);
  for (int64_t r = blockIdx.x * static_cast<int64_t>(kThreads / 32) + threadIdx.x / 32; r < rows; r += warps) {
    const A factor = dy[r] / y[r];
#pragma unroll 4
    for (int64_t i = threadIdx.x % 32 * W; i < n; i += 32 * W) {
      A v[W];
      load<W>(x + r * n + i, v);
#pragma unroll
      for (int k = 0; k < W; ++k) v[k] *= factor;
      store<W>(dx + r * n + i, v);
    }
  }
}

}  // namespace

template <class T> void row_lengths(const T* x, int64_t rows, int64_t n, Accumulator<T>* y, Stream stream) {
  if (rows == 0) return;
  with_pack_width<T>(
      n,
      [&](auto wide) {
        launch("row_lengths", row_lengths_kernel<decltype(wide)::value, T>,
               {grid_for(rows, kThreads / 32), kThreads}, stream, x, rows, n, y);
      },
      x);
}

template <class T>
void row_lengths_gradient(const T* x, const Accumulator<T>* y, const Accumulator<T>* dy, int64_t rows, int64_t n,
                          T* dx, Stream stream) {
  if (rows == 0) return;
  with_pack_width<T>(
      n,
      [&](auto wide) {
        launch("row_lengths/gradient", row_lengths_gradient_kernel<decltype(wide)::value, T>,
               {grid_for(rows, kThreads / 32), kThreads}, stream, x, y, dy, rows, n, dx);
      },
      x, dx);
}

#define INSTANTIATE(T)                                                                                             \
  template void row_lengths(const T*, int64_t, int64_t, Accumulator<T>*, Stream);                                  \
  template void row_lengths_gradient(const T*, const Accumulator<T>*, const Accumulator<T>*, int64_t, int64_t, T*, \
                                     Stream);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace glia::cuda
