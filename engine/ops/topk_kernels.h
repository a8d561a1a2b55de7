// x [T, N] → values [T, K], indices int32 [T, K]; scatter: y [T, N] = 0 but for y[t, indices[t, k]] = values[t, k] (a negative
// index is nobody); gather: values[t, k] = x[t, indices[t, k]] (0 for a negative index).
#pragma once
#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/device/stream.h"

namespace glia {

namespace cpu {
template <class T> void top_k(const T* x, int64_t rows, int64_t n, int64_t k, T* values, int32_t* indices);
template <class T> void scatter_last(const T* values, const int32_t* indices, int64_t rows, int64_t n, int64_t k, T* y);
template <class T> void gather_last(const T* x, const int32_t* indices, int64_t rows, int64_t n, int64_t k, T* values);
}  // namespace cpu

namespace cuda {
template <class T> void top_k(const T* x, int64_t rows, int64_t n, int64_t k, T* values, int32_t* indices, Stream stream);
template <class T> void scatter_last(const T* values, const int32_t* indices, int64_t rows, int64_t n, int64_t k, T* y, Stream stream);
template <class T> void gather_last(const T* x, const int32_t* indices, int64_t rows, int64_t n, int64_t k, T* values, Stream stream);
}  // namespace cuda

}  // namespace glia
