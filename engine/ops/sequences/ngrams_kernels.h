// Kernels of ngrams.cpp. offsets [B + 1]; ids, sequence_of and row [T]; sequence_of −1 in the tail.
#pragma once
#include <cstdint>

#include "engine/core/host_device.h"
#include "engine/device/stream.h"

namespace glia {

struct NgramShape {
  int64_t rows, n, buckets;
  const int32_t *ids, *sequence_of, *offsets;
};

// The hash mixes each id in by an odd multiplier and folds the upper half down, since the remainder reads all bits.
GLIA_HD int32_t ngram_row(const NgramShape& s, int64_t t) {
  const int32_t b = s.sequence_of[t];
  if (b < 0 || t - s.offsets[b] + 1 < s.n) return -1;
  uint64_t hash = 0;
  for (int64_t i = t - s.n + 1; i <= t; ++i) {
    hash = (hash + static_cast<uint32_t>(s.ids[i]) + 1) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 32;
  }
  return static_cast<int32_t>(hash % static_cast<uint64_t>(s.buckets));
}

namespace cpu {
void ngram_rows(const NgramShape& s, int32_t* row);  // [T] =
}
namespace cuda {
void ngram_rows(const NgramShape& s, int32_t* row, Stream stream);
}

}  // namespace glia
