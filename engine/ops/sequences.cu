#include "engine/device/cuda/launch.cuh"
#include "engine/ops/sequences_functors.h"

namespace glia::cuda {

template <class T>
void sequence_mean(const SequenceMean& s, const T* x, T* y, Stream stream) {
  for_each("sequence_mean", s.sequences * s.hidden, stream,
           [=] __device__(int64_t i) { y[i] = mean_element(s, x, i / s.hidden, i % s.hidden); });
}
template <class T>
void sequence_mean_gradient(const SequenceMean& s, const T* dy, T* dx, Stream stream) {
  for_each("sequence_mean/gradient", s.tokens * s.hidden, stream,
           [=] __device__(int64_t i) { dx[i] = mean_gradient_element(s, dy, i / s.hidden, i % s.hidden); });
}
template <class T>
void sequence_broadcast(const SequenceMean& s, const T* x, T* y, Stream stream) {
  for_each("sequence_broadcast", s.tokens * s.hidden, stream,
           [=] __device__(int64_t i) { y[i] = broadcast_element(s, x, i / s.hidden, i % s.hidden); });
}
template <class T>
void sequence_sum(const SequenceMean& s, const T* x, T* y, Stream stream) {
  for_each("sequence_sum", s.sequences * s.hidden, stream,
           [=] __device__(int64_t i) { y[i] = sum_element(s, x, i / s.hidden, i % s.hidden); });
}

#define INSTANTIATE(T)                                                              \
  template void sequence_mean(const SequenceMean&, const T*, T*, Stream);           \
  template void sequence_mean_gradient(const SequenceMean&, const T*, T*, Stream);  \
  template void sequence_broadcast(const SequenceMean&, const T*, T*, Stream);      \
  template void sequence_sum(const SequenceMean&, const T*, T*, Stream);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace glia::cuda
