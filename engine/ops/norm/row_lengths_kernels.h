// Kernels of row_lengths.cpp.
#pragma once
#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/device/stream.h"

namespace glia {

constexpr double kLeastSquare = 1e-20;  // under the root, which has no derivative at 0

namespace cpu {
template <class T> void row_lengths(const T* x, int64_t rows, int64_t n, Accumulator<T>* y);
// dx[r, n] = dy[r] x[r, n] / y[r]
template <class T>
void row_lengths_gradient(const T* x, const Accumulator<T>* y, const Accumulator<T>* dy, int64_t rows, int64_t n,
                          T* dx);
}  // namespace cpu
namespace cuda {
template <class T> void row_lengths(const T* x, int64_t rows, int64_t n, Accumulator<T>* y, Stream stream);
template <class T>
void row_lengths_gradient(const T* x, const Accumulator<T>* y, const Accumulator<T>* dy, int64_t rows, int64_t n,
                          T* dx, Stream stream);
}  // namespace cuda

}  // namespace glia
