// y[i] = keep_i · x[i] / (1 − p), keep_i from word i % 4 of Philox block i / 4. n elements.
#pragma once
#include <algorithm>

#include "engine/core/bfloat16.h"
#include "engine/core/rng.h"
#include "engine/device/stream.h"

namespace glia {

namespace cpu {
template <class T> void dropout(const T* x, T* y, int64_t n, double p, const RandomKey& key);

// f(first, count, words) for pieces of the elements begin … end − 1: words[k] belongs to element first + k.
template <class F>
void for_each_drawn(const RandomKey& key, int64_t begin, int64_t end, F&& f) {
  constexpr int64_t kBlocks = 64;
  uint32_t words[4 * kBlocks];
  const uint32_t step = key.step ? *key.step : 0;
  for (int64_t block = begin / 4; 4 * block < end; block += kBlocks) {
    const int64_t count = std::min<int64_t>(kBlocks, (end + 3) / 4 - block);
    random_words(key.seed, key.purpose, step, static_cast<uint64_t>(block), count, words);
    const int64_t first = std::max(begin, 4 * block), last = std::min(end, 4 * (block + count));
    f(first, last - first, words + (first - 4 * block));
  }
}
}  // namespace cpu

namespace cuda {
template <class T> void dropout(const T* x, T* y, int64_t n, double p, const RandomKey& key, Stream stream);
}

}  // namespace glia
