// One element of each sequence op, compiled by both compilers; the caller loops over the elements.
#pragma once
#include "engine/core/host_device.h"
#include "engine/ops/sequences_kernels.h"

namespace glia {

// Rows [begin, end) that count for sequence b.
GLIA_HD void counted_rows(const SequenceMean& s, int64_t b, int64_t& begin, int64_t& end) {
  begin = s.offsets[b];
  end = s.offsets[b + 1];
  if (s.limits && begin + s.limits[b] < end) end = begin + s.limits[b];
  if (s.skip_first) ++begin;
}

template <class T>
GLIA_HD T mean_element(const SequenceMean& s, const T* x, int64_t b, int64_t j) {
  int64_t begin, end;
  counted_rows(s, b, begin, end);
  if (begin >= end) return static_cast<T>(0.0f);
  Accumulator<T> sum = 0;
  for (int64_t t = begin; t < end; ++t) sum += static_cast<Accumulator<T>>(x[t * s.hidden + j]);
  return static_cast<T>(sum / static_cast<Accumulator<T>>(end - begin));
}

template <class T>
GLIA_HD T mean_gradient_element(const SequenceMean& s, const T* dy, int64_t t, int64_t j) {
  const int32_t b = s.sequence_of[t];
  if (b < 0) return static_cast<T>(0.0f);
  int64_t begin, end;
  counted_rows(s, b, begin, end);
  if (t < begin || t >= end) return static_cast<T>(0.0f);
  return static_cast<T>(static_cast<Accumulator<T>>(dy[b * s.hidden + j]) / static_cast<Accumulator<T>>(end - begin));
}

template <class T>
GLIA_HD T broadcast_element(const SequenceMean& s, const T* x, int64_t t, int64_t j) {
  const int32_t b = s.sequence_of[t];
  return b < 0 ? static_cast<T>(0.0f) : x[b * s.hidden + j];
}

template <class T>
GLIA_HD T sum_element(const SequenceMean& s, const T* x, int64_t b, int64_t j) {
  Accumulator<T> sum = 0;
  for (int64_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t) sum += static_cast<Accumulator<T>>(x[t * s.hidden + j]);
  return static_cast<T>(sum);
}

}  // namespace glia
