// Kernels of random_rows.cpp.
#pragma once
#include <cstdint>

#include "engine/core/random/rng.h"
#include "engine/device/stream.h"

namespace glia {

struct RandomRows {
  int64_t rows, columns;
  bool normal;
  RandomKey key;
  const int32_t* ids;  // [rows], or nullptr: the rows' own numbers
};

// Element n of the row that `number` names. Rows begin at multiples of 4, so that they share no Philox block.
GLIA_HD double random_of_row(const RandomRows& r, uint64_t number, int64_t n) {
  const auto width = static_cast<uint64_t>((r.columns + 3) / 4 * 4);
  const uint64_t element = number * width + static_cast<uint64_t>(n);
  const uint32_t step = r.key.step ? *r.key.step : 0u;
  if (r.normal) return random_normal(r.key.seed, r.key.purpose, step, element);
  return static_cast<double>(uniform_from(random_bits(r.key.seed, r.key.purpose, step, element)));
}

GLIA_HD uint64_t row_number(const RandomRows& r, int64_t row) {
  if (r.ids) return static_cast<uint32_t>(r.ids[row]);
  return (r.key.first_row ? *r.key.first_row : 0u) + static_cast<uint64_t>(row);
}

namespace cpu {
template <class A> void random_rows(const RandomRows& r, A* y);  // y [rows, columns] =
}
namespace cuda {
template <class A> void random_rows(const RandomRows& r, A* y, Stream stream);
}

}  // namespace glia
