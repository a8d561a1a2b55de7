#include "engine/device/cuda/launch.cuh"
#include "engine/ops/routing/columns_kernels.h"

namespace glia::cuda {
namespace {

// A warp a row.
template <class T>
__global__ void __launch_bounds__(kThreads)
    row_products_kernel(const T* x, const T* dy, int64_t rows, int64_t width, Accumulator<T>* d) {
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / 32);
  const int lane = threadIdx.x % 32;
  for (int64_t t = blockIdx.x * static_cast<int64_t>(kThreads / 32) + threadIdx.x / 32; t < rows; t += warps) {
    Accumulator<T> sum = 0;
    for (int64_t h = lane; h < width; h += 32)
      sum += static_cast<Accumulator<T>>(x[t * width + h]) * static_cast<Accumulator<T>>(dy[t * width + h]);
    sum = warp_sum(sum);
    if (lane == 0) d[t] = sum;
  }
}

}  // namespace

template <class A> void copy_columns(const ColumnsShape& s, const A* x, A* y, Stream stream) {
  for_each("copy_columns", s.rows * s.count, stream, [=] __device__(int64_t i) {
    const int64_t t = i / s.count, j = i % s.count;
    y[t * s.to_width + s.to + j] = x[t * s.from_width + s.from + j];
  });
}

template <class T>
void scale_rows(const T* x, const Accumulator<T>* by, int64_t rows, int64_t width, T* y, Stream stream) {
  for_each("scale_rows", rows * width, stream,
           [=] __device__(int64_t i) { y[i] = static_cast<T>(static_cast<Accumulator<T>>(x[i]) * by[i / width]); });
}

template <class T>
void scale_rows_gradient(const T* x, const T* dy, int64_t rows, int64_t width, Accumulator<T>* d, Stream stream) {
  if (rows == 0) return;
  launch("scale_rows/gradient", row_products_kernel<T>, {grid_for(rows, kThreads / 32), kThreads}, stream, x, dy,
         rows, width, d);
}

#define INSTANTIATE(T)                                                                     \
  template void scale_rows(const T*, const Accumulator<T>*, int64_t, int64_t, T*, Stream); \
  template void scale_rows_gradient(const T*, const T*, int64_t, int64_t, Accumulator<T>*, Stream);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE
template void copy_columns(const ColumnsShape&, const float*, float*, Stream);
template void copy_columns(const ColumnsShape&, const double*, double*, Stream);

}  // namespace glia::cuda
