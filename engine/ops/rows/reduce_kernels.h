// Reductions of the middle axis.     x [outer, n, inner] → y [outer, inner]
#pragma once
#include <algorithm>
#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/device/stream.h"

namespace glia {

struct AxisShape {
  int64_t outer = 1, n = 1, inner = 1;
};

namespace cpu {
// y = factor · Σ x
template <class T> void axis_sum(const AxisShape& s, const T* x, double factor, T* y);
// dx[o, i, k] = factor · dy[o, k]
template <class T> void axis_spread(const AxisShape& s, const T* dy, double factor, T* dx);
// The largest and its first position; NaN wins over all.
template <class T> void axis_max(const AxisShape& s, const T* x, T* y, int32_t* at);
// dx[o, at[o, k], k] = dy[o, k], 0 elsewhere
template <class T> void axis_max_gradient(const AxisShape& s, const int32_t* at, const T* dy, T* dx);
}  // namespace cpu

namespace cuda {
// partial [outer, axis_chunks(s), inner] is scratch
template <class T>
void axis_sum(const AxisShape& s, const T* x, double factor, Accumulator<T>* partial, T* y, Stream stream);
template <class T> void axis_spread(const AxisShape& s, const T* dy, double factor, T* dx, Stream stream);
template <class T> void axis_max(const AxisShape& s, const T* x, T* y, int32_t* at, Stream stream);
template <class T> void axis_max_gradient(const AxisShape& s, const int32_t* at, const T* dy, T* dx, Stream stream);

// In how many pieces the axis is cut so that a GPU is busy; depends on the shape only.
inline int64_t axis_chunks(const AxisShape& s) {
  const int64_t columns = std::max<int64_t>(1, s.outer * s.inner);
  // A warp a row: 4096 warps; or a thread a column: 2^18 threads.
  if (s.inner == 1) return std::clamp<int64_t>(4096 / columns, 1, std::max<int64_t>(1, s.n / 256));
  return std::clamp<int64_t>((1 << 18) / columns, 1, std::max<int64_t>(1, std::min<int64_t>(256, s.n / 32)));
}
}  // namespace cuda

}  // namespace glia
