// The CPU's dropout masks, for every op that drops.
#pragma once
#include <bit>

#include "engine/core/random/rng_words.h"

namespace glia::cpu {

// v, or 0 where the element is dropped. By mask, not by a conditional expression: g++ would make the load of v
// conditional and then not vectorise.
inline float keep(uint32_t word, uint32_t threshold, float v) {
  return std::bit_cast<float>(std::bit_cast<uint32_t>(v) & (word < threshold ? 0u : ~0u));
}
inline double keep(uint32_t word, uint32_t threshold, double v) {
  return std::bit_cast<double>(std::bit_cast<uint64_t>(v) & (word < threshold ? uint64_t{0} : ~uint64_t{0}));
}

// Asks for what will be read and written after the words are drawn: drawing takes as long as the memory does, and
// nothing would overlap them otherwise (dropout of 80 MB: 0.85 → 0.54 ns an element). Inlined for certain: g++
// drops calls of functions that do nothing but prefetch.
template <class T> __attribute__((always_inline)) inline void prefetch(const T* p, int64_t n) {
  for (int64_t i = 0; p && i < n; i += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(p + i);
}

constexpr int64_t kWordSlack = 8;

// The words of the elements begin … begin + n − 1, drawn into `buffer` (n + kWordSlack words): word i of the result
// is element begin + i's.
inline const uint32_t* draw_words(const RandomKey& key, int64_t begin, int64_t n, uint32_t* buffer) {
  const int64_t first = begin / 4, last = (begin + n + 3) / 4;
  random_words(key.seed, key.purpose, key.step ? *key.step : 0, first_block(key) + static_cast<uint64_t>(first),
               last - first, buffer);
  return buffer + (begin - 4 * first);
}

}  // namespace glia::cpu
