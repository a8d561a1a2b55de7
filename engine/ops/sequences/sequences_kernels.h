// Sums over the rows of packed sequences.     x [tokens, h], sequence b is rows offsets[b] … offsets[b + 1] − 1
#pragma once
#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/device/stream.h"

namespace glia {

// Which rows of a sequence count: all but the first `skip`, and only the first key_lengths[b] where given.
struct SequenceRows {
  const int32_t* offsets = nullptr;
  const int32_t* key_lengths = nullptr;
  int skip = 0;
  bool first_only = false;  // no row but the first
  bool mean = false;        // divided by the number of rows that count
  int64_t count = 0, tokens = 0, h = 0;
};

struct Span {
  int64_t begin, end;
};

// The rows of sequence b that count. An empty sequence has no first row either.
GLIA_HD Span counted(const SequenceRows& s, int64_t b) {
  const int64_t first = s.offsets[b], last = s.offsets[b + 1], skipped = first + s.skip;
  const int64_t one = first < last ? first + 1 : last;
  const int64_t end = s.first_only ? one : s.key_lengths ? first + s.key_lengths[b] : last;
  return {skipped < end ? skipped : end, end};
}

namespace cpu {
// y[b] = Σ or mean over the rows that count, 0 where none does.       y [count, h]
template <class T> void sequence_reduce(const SequenceRows& s, const T* x, T* y);
// dx[t] = dy[b], or dy[b] / number of rows, in the rows that count; 0 elsewhere, tail included.      dx [tokens, h]
template <class T> void sequence_spread(const SequenceRows& s, const int32_t* sequence_of, const T* dy, T* dx);
}  // namespace cpu

namespace cuda {
template <class T> void sequence_reduce(const SequenceRows& s, const T* x, T* y, Stream stream);
template <class T>
void sequence_spread(const SequenceRows& s, const int32_t* sequence_of, const T* dy, T* dx, Stream stream);
}  // namespace cuda

}  // namespace glia
