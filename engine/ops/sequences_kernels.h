// x [T, H], offsets int32 [B + 1], limits int32 [B] or nullptr (rows of a sequence that count), sequence_of int32 [T].
#pragma once
#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/device/stream.h"

namespace glia {

struct SequenceMean {
  int64_t sequences, tokens, hidden;
  const int32_t *offsets, *limits, *sequence_of;
  bool skip_first;
};

namespace cpu {
template <class T> void sequence_mean(const SequenceMean& s, const T* x, T* y);               // y [B, H] =
template <class T> void sequence_mean_gradient(const SequenceMean& s, const T* dy, T* dx);    // dx [T, H] =
template <class T> void sequence_broadcast(const SequenceMean& s, const T* x, T* y);          // y [T, H] =
template <class T> void sequence_sum(const SequenceMean& s, const T* x, T* y);                // y [B, H] = Σ of all rows
}  // namespace cpu

namespace cuda {
template <class T> void sequence_mean(const SequenceMean& s, const T* x, T* y, Stream stream);
template <class T> void sequence_mean_gradient(const SequenceMean& s, const T* dy, T* dx, Stream stream);
template <class T> void sequence_broadcast(const SequenceMean& s, const T* x, T* y, Stream stream);
template <class T> void sequence_sum(const SequenceMean& s, const T* x, T* y, Stream stream);
}  // namespace cuda

}  // namespace glia
