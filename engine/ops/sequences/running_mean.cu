#include "engine/device/cuda/launch.cuh"
#include "engine/ops/sequences/running_mean_kernels.h"

namespace glia::cuda {

// A thread a column of a sequence: what runs here has few columns (a router's experts) and short sequences.
template <class T> void running(const RunningShape& s, const T* x, T* y, Stream stream) {
  for_each("running_mean", s.sequences * s.columns, stream,
           [=] __device__(int64_t i) { run_column(s, i / s.columns, i % s.columns, x, y); });
}

template <class T> void running_gradient(const RunningShape& s, const T* dy, T* dx, Stream stream) {
  for_each("running_mean/gradient", s.sequences * s.columns, stream,
           [=] __device__(int64_t i) { run_column_back(s, i / s.columns, i % s.columns, dy, dx); });
}

template <class T> void mark_behind(const RunningShape& s, T* y, Stream stream) {
  for_each("behind_border", s.sequences * s.columns, stream,
           [=] __device__(int64_t i) { mark_column(s, i / s.columns, i % s.columns, y); });
}

#define INSTANTIATE(T)                                                       \
  template void running(const RunningShape&, const T*, T*, Stream);          \
  template void running_gradient(const RunningShape&, const T*, T*, Stream); \
  template void mark_behind(const RunningShape&, T*, Stream);
GLIA_FOR_FLOATING(INSTANTIATE)
#undef INSTANTIATE

}  // namespace glia::cuda
