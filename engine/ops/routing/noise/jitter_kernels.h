// Kernels of jitter.cpp.
#pragma once
#include <cstdint>

#include "engine/core/random/rng.h"
#include "engine/device/stream.h"

namespace glia {

struct JitterRule {
  int64_t rows, columns;
  double width;
  RandomKey key;  // row_blocks: ⌈columns / 4⌉
};

// The block of four numbers that columns n … n + 3 of a row take; n is a multiple of 4.
GLIA_HD PhiloxBlock jitter_block(const JitterRule& r, int64_t row, int64_t n) {
  return random_block(
      r.key, first_block(r.key) + static_cast<uint64_t>(row) * r.key.row_blocks + static_cast<uint64_t>(n) / 4);
}
// 1 − width … 1 + width.
template <class A> GLIA_HD A jitter_factor(const JitterRule& r, uint32_t word) {
  return static_cast<A>(uniform_from(word)) * static_cast<A>(2 * r.width) + static_cast<A>(1 - r.width);
}

// Forward from T to its accumulation type, backward the other way.
namespace cpu {
template <class From, class To> void jitter(const JitterRule& r, const From* x, To* y);  // [T, H] =
}
namespace cuda {
template <class From, class To> void jitter(const JitterRule& r, const From* x, To* y, Stream stream);
}

}  // namespace glia
