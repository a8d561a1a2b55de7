#include "engine/device/cuda/launch.cuh"
#include "engine/ops/topk_functors.h"

namespace glia::cuda {

template <class T>
void top_k(const T* x, int64_t rows, int64_t n, int64_t k, T* values, int32_t* indices, Stream stream) {
  for_each("top_k", rows, stream, [=] __device__(int64_t r) { top_k_row(x + r * n, n, k, values + r * k, indices + r * k); });
}
template <class T>
void scatter_last(const T* values, const int32_t* indices, int64_t rows, int64_t n, int64_t k, T* y, Stream stream) {
  for_each("scatter_last", rows, stream, [=] __device__(int64_t r) { scatter_row(values + r * k, indices + r * k, n, k, y + r * n); });
}
template <class T>
void gather_last(const T* x, const int32_t* indices, int64_t rows, int64_t n, int64_t k, T* values, Stream stream) {
  for_each("gather_last", rows, stream, [=] __device__(int64_t r) { gather_row(x + r * n, indices + r * k, k, values + r * k); });
}

#define INSTANTIATE(T)                                                                                      \
  template void top_k(const T*, int64_t, int64_t, int64_t, T*, int32_t*, Stream);                           \
  template void scatter_last(const T*, const int32_t*, int64_t, int64_t, int64_t, T*, Stream);              \
  template void gather_last(const T*, const int32_t*, int64_t, int64_t, int64_t, T*, Stream);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace glia::cuda
