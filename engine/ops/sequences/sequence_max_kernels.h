// Kernels of sequence_max.cpp. offsets [B + 1].
#pragma once
#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/device/stream.h"

namespace glia {

struct SequenceMaxShape {
  int64_t sequences, rows, columns;
  const int32_t* offsets;
};

// The row with the largest x[., n] of sequence b; −1: it has no rows. NaN wins, so that it is seen.
template <class T> GLIA_HD int32_t largest_row(const SequenceMaxShape& s, const T* x, int64_t b, int64_t n) {
  using A = Accumulator<T>;
  int32_t best = -1;
  for (int32_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t)
    if (best < 0 || !(static_cast<A>(x[t * s.columns + n]) <= static_cast<A>(x[best * s.columns + n]))) best = t;
  return best;
}

namespace cpu {
template <class T> void sequence_max(const SequenceMaxShape& s, const T* x, T* y, int32_t* row);  // [B, N] =
template <class T>                                                                                // as below
void sequence_max_gradient(const SequenceMaxShape& s, const T* dy, const int32_t* row, T* dx);
}  // namespace cpu
namespace cuda {
template <class T> void sequence_max(const SequenceMaxShape& s, const T* x, T* y, int32_t* row, Stream stream);
template <class T>  // dx [T, N] = where a sequence has its largest; zero before
void sequence_max_gradient(const SequenceMaxShape& s, const T* dy, const int32_t* row, T* dx, Stream stream);
}  // namespace cuda

}  // namespace glia
