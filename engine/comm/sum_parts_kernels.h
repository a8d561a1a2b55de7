#pragma once
#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/device/stream.h"

namespace glia::cuda {

// sum [n] := Σ over r of parts [ranks, n], from the first to the last, in float32, rounded once. n a multiple of 16 bytes, both
// aligned to as many; nobody else reads `sum` meanwhile.     T float or bfloat16
template <class T> void sum_parts(const T* parts, int ranks, int64_t n, T* sum, Stream stream);

}  // namespace glia::cuda
