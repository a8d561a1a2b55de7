#include "engine/core/random/rng_words.h"

#include <algorithm>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define GLIA_PHILOX_AVX512 1
#endif

namespace glia {
namespace {

// 64 blocks go through the rounds side by side: enough independent vectors to hide the multiplier's latency.
void portable_words(uint64_t seed, uint32_t purpose, uint32_t step, uint64_t first_block, int64_t blocks,
                    uint32_t* words) {
  constexpr int kLanes = 64;
  for (int64_t b = 0; b < blocks; b += kLanes) {
    alignas(64) uint32_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes], drawn[4 * kLanes];
    for (int l = 0; l < kLanes; ++l) {
      const uint64_t block = first_block + static_cast<uint64_t>(b + l);
      c0[l] = static_cast<uint32_t>(block), c1[l] = static_cast<uint32_t>(block >> 32), c2[l] = step,
      c3[l] = purpose;
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
    for (int l = 0; l < kLanes; ++l)
      drawn[4 * l] = c0[l], drawn[4 * l + 1] = c1[l], drawn[4 * l + 2] = c2[l], drawn[4 * l + 3] = c3[l];
    std::memcpy(words + 4 * b, drawn, static_cast<size_t>(16 * std::min<int64_t>(kLanes, blocks - b)));
  }
}

#ifdef GLIA_PHILOX_AVX512
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++ 12's own headers (GCC bug 105593)
// Eight blocks a register, each word in the low half of 64 bits, which is what the multiplication reads: the
// products' halves need a shift and no shuffle, and what lies in the high halves never matters. g++ finds no such
// code by itself (twice as slow on Zen 5).
__attribute__((target("avx512f"))) void avx512_words(uint64_t seed, uint32_t purpose, uint32_t step,
                                                     uint64_t first_block, int64_t blocks, uint32_t* words) {
  constexpr int kVectors = 4, kBlocks = 8 * kVectors;  // registers in flight, to hide the multiplier's latency
  const __m512i m0 = _mm512_set1_epi64(0xD2511F53), m1 = _mm512_set1_epi64(0xCD9E8D57);
  for (int64_t b = 0; b < blocks; b += kBlocks) {
    __m512i c0[kVectors], c1[kVectors], c2[kVectors], c3[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      c0[v] = _mm512_add_epi64(_mm512_set1_epi64(static_cast<int64_t>(first_block) + b + 8 * v),
                               _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0));
      c1[v] = _mm512_srli_epi64(c0[v], 32), c2[v] = _mm512_set1_epi64(step), c3[v] = _mm512_set1_epi64(purpose);
    }
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const __m512i key0 = _mm512_set1_epi64(k0), key1 = _mm512_set1_epi64(k1);
      for (int v = 0; v < kVectors; ++v) {
        const __m512i p = _mm512_mul_epu32(m0, c0[v]), q = _mm512_mul_epu32(m1, c2[v]);
        c0[v] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(q, 32), c1[v], key0, 0x96);  // a ^ b ^ c
        c2[v] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p, 32), c3[v], key1, 0x96);
        c1[v] = q, c3[v] = p;
      }
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    alignas(64) uint32_t tail[4 * kBlocks];
    const bool whole = blocks - b >= kBlocks;
    uint32_t* to = whole ? words + 4 * b : tail;
    for (int v = 0; v < kVectors; ++v) {
      const __m512i first =
          _mm512_mask_shuffle_epi32(c0[v], 0xaaaa, c1[v], _MM_PERM_CCAA);  // words 0 and 1 of each block
      const __m512i second = _mm512_mask_shuffle_epi32(c2[v], 0xaaaa, c3[v], _MM_PERM_CCAA);
      _mm512_storeu_si512(to + 32 * v,
                          _mm512_permutex2var_epi64(first, _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0), second));
      _mm512_storeu_si512(to + 32 * v + 16,
                          _mm512_permutex2var_epi64(first, _mm512_set_epi64(15, 7, 14, 6, 13, 5, 12, 4), second));
    }
    if (!whole) std::memcpy(words + 4 * b, tail, static_cast<size_t>(16 * (blocks - b)));
  }
}
#pragma GCC diagnostic pop
#endif

}  // namespace

void random_words(uint64_t seed, uint32_t purpose, uint32_t step, uint64_t first_block, int64_t blocks,
                  uint32_t* words) {
#ifdef GLIA_PHILOX_AVX512
  static const bool wide = __builtin_cpu_supports("avx512f");
  if (wide) return avx512_words(seed, purpose, step, first_block, blocks, words);
#endif
  portable_words(seed, purpose, step, first_block, blocks, words);
}

}  // namespace glia
