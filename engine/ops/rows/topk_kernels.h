// The k largest of each row, and rows scattered to chosen columns.
//                      x [rows, n], values [rows, k], indices int32 [rows, k]
// Order: larger first, then the lower index; NaN counts as −∞. An index outside [0, n) is skipped.
#pragma once
#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/device/stream.h"

namespace glia {

namespace cpu {
template <class T> void top_k(const T* x, T* values, int32_t* indices, int64_t rows, int64_t n, int64_t k);
template <class T>
void scatter_last(const T* values, const int32_t* indices, T* y, int64_t rows, int64_t n, int64_t k);
// values[r, i] = x[r, indices[r, i]], 0 for a skipped index
template <class T>
void gather_last(const T* x, const int32_t* indices, T* values, int64_t rows, int64_t n, int64_t k);
}  // namespace cpu

namespace cuda {
template <class T>
void top_k(const T* x, T* values, int32_t* indices, int64_t rows, int64_t n, int64_t k, Stream stream);
template <class T>
void scatter_last(const T* values, const int32_t* indices, T* y, int64_t rows, int64_t n, int64_t k, Stream stream);
template <class T>
void gather_last(const T* x, const int32_t* indices, T* values, int64_t rows, int64_t n, int64_t k, Stream stream);
}  // namespace cuda

}  // namespace glia
