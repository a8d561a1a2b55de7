// Many Philox words at once on the CPU, for masks: the same words as random_bits(), four blocks a vector.
#pragma once

#include <algorithm>
#include <cstring>

#include "engine/core/rng.h"
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace glia {

#ifdef __AVX2__
// A 64-bit lane holds one block's 32-bit word in its low half; the high halves fill with what vpmuludq ignores. Three
// vectors go through the rounds side by side, which hides the multiplier's latency (measured: 1, 2 and 4 are slower).
inline void random_words(uint64_t seed, uint32_t purpose, uint32_t step, uint64_t first_block, int64_t blocks, uint32_t* words) {
  constexpr int kVectors = 3;
  const __m256i m0 = _mm256_set1_epi64x(0xD2511F53), m1 = _mm256_set1_epi64x(0xCD9E8D57), low = _mm256_set1_epi64x(0xffffffff);
  for (int64_t b = 0; b < blocks; b += 4 * kVectors) {
    __m256i c0[kVectors], c1[kVectors], c2[kVectors], c3[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const uint64_t block = first_block + static_cast<uint64_t>(b + 4 * v);
      c0[v] = _mm256_add_epi64(_mm256_set1_epi64x(static_cast<int64_t>(block)), _mm256_set_epi64x(3, 2, 1, 0));
      c1[v] = _mm256_srli_epi64(c0[v], 32);
      c2[v] = _mm256_set1_epi64x(step);
      c3[v] = _mm256_set1_epi64x(purpose);
    }
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const __m256i key0 = _mm256_set1_epi64x(k0), key1 = _mm256_set1_epi64x(k1);
      for (int v = 0; v < kVectors; ++v) {
        const __m256i p = _mm256_mul_epu32(m0, c0[v]), q = _mm256_mul_epu32(m1, c2[v]);
        c0[v] = _mm256_xor_si256(_mm256_srli_epi64(q, 32), _mm256_xor_si256(c1[v], key0));
        c2[v] = _mm256_xor_si256(_mm256_srli_epi64(p, 32), _mm256_xor_si256(c3[v], key1));
        c1[v] = q, c3[v] = p;
      }
      k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    alignas(32) uint32_t drawn[16 * kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const __m256i first = _mm256_or_si256(_mm256_and_si256(c0[v], low), _mm256_slli_epi64(c1[v], 32));   // words 0, 1 of 4 blocks
      const __m256i second = _mm256_or_si256(_mm256_and_si256(c2[v], low), _mm256_slli_epi64(c3[v], 32));  // words 2, 3
      const __m256i even = _mm256_unpacklo_epi64(first, second), odd = _mm256_unpackhi_epi64(first, second);
      auto* to = reinterpret_cast<__m256i*>(drawn + 16 * v);
      _mm256_store_si256(to, _mm256_permute2x128_si256(even, odd, 0x20));      // blocks 0, 1
      _mm256_store_si256(to + 1, _mm256_permute2x128_si256(even, odd, 0x31));  // blocks 2, 3
    }
    std::memcpy(words + 4 * b, drawn, static_cast<size_t>(16 * std::min<int64_t>(4 * kVectors, blocks - b)));
  }
}
#else
inline void random_words(uint64_t seed, uint32_t purpose, uint32_t step, uint64_t first_block, int64_t blocks, uint32_t* words) {
  for (int64_t b = 0; b < blocks; ++b) {
    const PhiloxBlock r = random_block(seed, purpose, step, first_block + static_cast<uint64_t>(b));
    std::memcpy(words + 4 * b, r.word, sizeof r.word);
  }
}
#endif

}  // namespace glia
