// x [rows, n] row-major, b [n] in the accumulation type.
#pragma once
#include <algorithm>
#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/device/stream.h"

namespace glia {

namespace cpu {
template <class T> void bias_add(const T* x, const Accumulator<T>* b, T* y, int64_t rows, int64_t n);
template <class T> void bias_gelu(const T* x, const Accumulator<T>* b, T* y, int64_t rows, int64_t n);
// dx = dy · gelu'(x + b);  db = Σ_rows dx, or nullptr.
template <class T>
void bias_gelu_gradient(const T* x, const Accumulator<T>* b, const T* dy, T* dx, Accumulator<T>* db, int64_t rows,
                        int64_t n);
}  // namespace cpu

namespace cuda {
template <class T> void bias_add(const T* x, const Accumulator<T>* b, T* y, int64_t rows, int64_t n, Stream stream);
template <class T>
void bias_gelu(const T* x, const Accumulator<T>* b, T* y, int64_t rows, int64_t n, Stream stream);
// partial [bias_chunks(rows, n), n]: sums of chunks of rows, for db; unused where db is nullptr.
template <class T>
void bias_gelu_gradient(const T* x, const Accumulator<T>* b, const T* dy, T* dx, Accumulator<T>* partial,
                        Accumulator<T>* db, int64_t rows, int64_t n, Stream stream);

// Enough chunks for about 512 blocks of 256 columns; depends on the shape only, so the sums have the same bits
// everywhere.
inline int bias_chunks(int64_t rows, int64_t n) {
  const int64_t wanted = 512 / std::clamp<int64_t>((n + 255) / 256, 1, 512);
  return static_cast<int>(std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, (rows + 7) / 8)));
}
}  // namespace cuda

}  // namespace glia
