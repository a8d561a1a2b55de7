// y[i] = keep_i · x[i] / (1 − p), keep_i from word i % 4 of Philox block i / 4. n elements.
#pragma once
#include "engine/core/bfloat16.h"
#include "engine/core/random/rng.h"
#include "engine/device/stream.h"

namespace glia {

namespace cpu {
template <class T> void dropout(const T* x, T* y, int64_t n, double p, const RandomKey& key);
}  // namespace cpu
namespace cuda {
template <class T> void dropout(const T* x, T* y, int64_t n, double p, const RandomKey& key, Stream stream);
}

}  // namespace glia
