// Kernels of columns.cpp.
#pragma once
#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/device/stream.h"

namespace glia {

// Columns of two matrices [rows, …]: `count` of them, from column `from` of one that is `from_width` wide.
struct ColumnsShape {
  int64_t rows, count, from_width, from, to_width, to;
};

namespace cpu {
template <class A> void copy_columns(const ColumnsShape& s, const A* x, A* y);
template <class T> void scale_rows(const T* x, const Accumulator<T>* by, int64_t rows, int64_t width, T* y);
// d[t] = ⟨x[t], dy[t]⟩
template <class T>
void scale_rows_gradient(const T* x, const T* dy, int64_t rows, int64_t width, Accumulator<T>* d);
}  // namespace cpu
namespace cuda {
template <class A> void copy_columns(const ColumnsShape& s, const A* x, A* y, Stream stream);
template <class T>
void scale_rows(const T* x, const Accumulator<T>* by, int64_t rows, int64_t width, T* y, Stream stream);
template <class T>
void scale_rows_gradient(const T* x, const T* dy, int64_t rows, int64_t width, Accumulator<T>* d, Stream stream);
}  // namespace cuda

}  // namespace glia
