#include "engine/device/cuda/launch.cuh"
#include "engine/ops/attention/rotary_kernels.h"

namespace glia::cuda {

// A thread a pair of columns of a row, in all heads: sines are costly, and neighbours read neighbours.
template <class T> void rotate(const RotaryShape& s, const T* x, T* y, Stream stream) {
  for_each("rotate", s.rows * s.half, stream,
           [=] __device__(int64_t i) { rotate_pair(s, i / s.half, i % s.half, x, y); });
}

#define INSTANTIATE(T) template void rotate(const RotaryShape&, const T*, T*, Stream);
GLIA_FOR_FLOATING(INSTANTIATE)
#undef INSTANTIATE

}  // namespace glia::cuda
