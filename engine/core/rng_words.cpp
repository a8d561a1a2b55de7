#include "engine/core/rng_words.h"

#include <algorithm>
#include <cstring>

#include "engine/core/clones.h"

namespace glia {

// 64 blocks go through the rounds side by side: enough independent vectors to hide the multiplier's latency.
GLIA_CLONES void random_words(uint64_t seed, uint32_t purpose, uint32_t step, uint64_t first_block, int64_t blocks, uint32_t* words) {
  constexpr int kLanes = 64;
  for (int64_t b = 0; b < blocks; b += kLanes) {
    alignas(64) uint32_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes], drawn[4 * kLanes];
    for (int l = 0; l < kLanes; ++l) {
      const uint64_t block = first_block + static_cast<uint64_t>(b + l);
      c0[l] = static_cast<uint32_t>(block), c1[l] = static_cast<uint32_t>(block >> 32), c2[l] = step, c3[l] = purpose;
    }
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
#pragma omp simd
      for (int l = 0; l < kLanes; ++l) {
        const uint64_t p = 0xD2511F53ull * c0[l], q = 0xCD9E8D57ull * c2[l];
        c0[l] = static_cast<uint32_t>(q >> 32) ^ c1[l] ^ k0;
        c2[l] = static_cast<uint32_t>(p >> 32) ^ c3[l] ^ k1;
        c1[l] = static_cast<uint32_t>(q);
        c3[l] = static_cast<uint32_t>(p);
      }
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    for (int l = 0; l < kLanes; ++l) drawn[4 * l] = c0[l], drawn[4 * l + 1] = c1[l], drawn[4 * l + 2] = c2[l], drawn[4 * l + 3] = c3[l];
    std::memcpy(words + 4 * b, drawn, static_cast<size_t>(16 * std::min<int64_t>(kLanes, blocks - b)));
  }
}

}  // namespace glia
