#include "engine/device/cuda/launch.cuh"
#include "engine/ops/sequences/sequence_max_kernels.h"

namespace glia::cuda {

template <class T> void sequence_max(const SequenceMaxShape& s, const T* x, T* y, int32_t* row, Stream stream) {
  for_each("sequence_max", s.sequences * s.columns, stream, [=] __device__(int64_t i) {
    row[i] = largest_row(s, x, i / s.columns, i % s.columns);
    y[i] = row[i] < 0 ? T(0.0f) : x[row[i] * s.columns + i % s.columns];
  });
}

template <class T>
void sequence_max_gradient(const SequenceMaxShape& s, const T* dy, const int32_t* row, T* dx, Stream stream) {
  for_each("sequence_max/gradient", s.sequences * s.columns, stream, [=] __device__(int64_t i) {
    if (row[i] >= 0) dx[row[i] * s.columns + i % s.columns] = dy[i];
  });
}

#define INSTANTIATE(T)                                                                 \
  template void sequence_max(const SequenceMaxShape&, const T*, T*, int32_t*, Stream); \
  template void sequence_max_gradient(const SequenceMaxShape&, const T*, const int32_t*, T*, Stream);
GLIA_FOR_FLOATING(INSTANTIATE)
#undef INSTANTIATE

}  // namespace glia::cuda
