// Counter-based randomness: Philox 4x32-10 (Salmon et al., SC 2011), the same bits on CPU and CUDA.
//
// A number is a pure function of (seed, purpose, step, element); nothing is advanced, so neither the thread count
// nor the order of the calls matters. key = seed; counter = (block lo, block hi, step, purpose); a block holds 4
// words, and element e is word e % 4 of block e / 4. On CUDA the block comes from cuRAND's device function.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "engine/core/host_device.h"
#ifdef __CUDACC__
#include "engine/core/random/philox_device.cuh"
#endif

namespace glia {

struct PhiloxBlock {
  uint32_t word[4];
};

// One purpose a call site, so that no two sites share numbers. Dropout sites of a model add their site's index.
namespace purpose {
constexpr uint32_t kInit = 1u << 24, kShuffle = 2u << 24, kSplit = 3u << 24, kSynthetic = 4u << 24,
                   kDropout = 5u << 24, kRouterNoise = 6u << 24, kWarmStart = 7u << 24, kTest = 8u << 24,
                   kMasking = 9u << 24, kMaskedWord = 10u << 24, kMoments = 11u << 24;
}

// What a random op needs: `step` is read when the kernel runs, so a captured CUDA graph draws anew at each replay.
struct RandomKey {
  uint64_t seed = 0;
  uint32_t purpose = 0;
  const uint32_t* step = nullptr;  // on the op's device; nullptr is step 0
  // Where the op's rows are part of a whole (a micro-batch, a rank's batch): the number of its first row in the whole, on
  // the op's device; nullptr is 0. The part then draws the numbers that its rows have in the whole.
  const uint32_t* first_row = nullptr;
  uint32_t row_blocks = 0;  // blocks that the numbers of a row take; set by the op (row_key in engine/ops/checks.h)
};

// The block where the numbers of the op's first row begin.
GLIA_HD uint64_t first_block(const RandomKey& key) {
  const uint32_t row = key.first_row ? *key.first_row : 0;
#ifdef __CUDA_ARCH__
  return wide_product(row, key.row_blocks);
#else
  return static_cast<uint64_t>(row) * key.row_blocks;
#endif
}

GLIA_HD PhiloxBlock philox4x32_10(const uint32_t (&counter)[4], const uint32_t (&key)[2]) {
  PhiloxBlock r;
#ifdef __CUDA_ARCH__
  curand_philox(counter, key, r.word);
#else
  uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = 0xD2511F53ull * c0, b = 0xCD9E8D57ull * c2;
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(b);
    c3 = static_cast<uint32_t>(a);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  r.word[0] = c0, r.word[1] = c1, r.word[2] = c2, r.word[3] = c3;
#endif
  return r;
}

GLIA_HD PhiloxBlock random_block(uint64_t seed, uint32_t purpose, uint32_t step, uint64_t block) {
  const uint32_t counter[4] = {static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), step, purpose};
  const uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  return philox4x32_10(counter, key);
}

GLIA_HD PhiloxBlock random_block(const RandomKey& key, uint64_t block) {
  return random_block(key.seed, key.purpose, key.step ? *key.step : 0u, block);
}

GLIA_HD uint32_t random_bits(uint64_t seed, uint32_t purpose, uint32_t step, uint64_t element) {
  return random_block(seed, purpose, step, element / 4).word[element % 4];
}

// [0, 1), 24 bits, exact in float32.
GLIA_HD float uniform_from(uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

// A Bernoulli(p) event has happened when bits < bernoulli_threshold(p); dropout drops then, and keeps otherwise.
GLIA_HD uint32_t bernoulli_threshold(double p) {
  const double t = p * 4294967296.0;
  return t >= 4294967295.0 ? 4294967295u : static_cast<uint32_t>(t);
}

namespace rng_detail {

// ln u for u in (0, 1) and cos 2πu for u in [0, 1), to about 1e-15. Every step is an explicit fma, or a product or
// sum that nothing could be contracted into, so that g++ and nvcc produce the same bits; the C library's functions
// would not.
GLIA_HD double log_exact(double u) {
  int exponent;
  double m = frexp(u, &exponent);  // m in [0.5, 1)
  if (m < 0.70710678118654752) {
    m = m + m;
    exponent -= 1;
  }
  const double s = (m - 1.0) / (m + 1.0), z = s * s;  // ln m = 2 artanh s, |s| < 0.172
  double p = 1.0 / 21;
  for (int k = 19; k >= 1; k -= 2) p = fma(p, z, 1.0 / k);
  return fma(static_cast<double>(exponent), 0.69314718055994531, (s + s) * p);
}

GLIA_HD double cos_two_pi(double u) {
  const double t = u * 4.0;  // quarter turns; exact
  const int quadrant = static_cast<int>(t + 0.5);
  const double x = (t - quadrant) * 1.5707963267948966, z = x * x;  // |x| <= π/4
  double c = 1.0 / 20922789888000.0, s = -1.0 / 1307674368000.0;    // 1/16!, -1/15!
  c = fma(c, z, -1.0 / 87178291200.0), s = fma(s, z, 1.0 / 6227020800.0);
  c = fma(c, z, 1.0 / 479001600.0), s = fma(s, z, -1.0 / 39916800.0);
  c = fma(c, z, -1.0 / 3628800.0), s = fma(s, z, 1.0 / 362880.0);
  c = fma(c, z, 1.0 / 40320.0), s = fma(s, z, -1.0 / 5040.0);
  c = fma(c, z, -1.0 / 720.0), s = fma(s, z, 1.0 / 120.0);
  c = fma(c, z, 1.0 / 24.0), s = fma(s, z, -1.0 / 6.0);
  c = fma(c, z, -0.5), s = fma(s, z, 1.0);
  c = fma(c, z, 1.0);
  const double sine = s * x;
  switch (quadrant & 3) {
    case 0: return c;
    case 1: return -sine;
    case 2: return -c;
    default: return sine;
  }
}

GLIA_HD double normal_from(uint32_t a, uint32_t b) {  // Box–Muller
  const double u = (static_cast<double>(a) + 0.5) * 0x1p-32, v = static_cast<double>(b) * 0x1p-32;
  return sqrt(-2.0 * log_exact(u)) * cos_two_pi(v);
}

}  // namespace rng_detail

// N(0, 1); element e reads half of block e / 2.
GLIA_HD double random_normal(uint64_t seed, uint32_t purpose, uint32_t step, uint64_t element) {
  const PhiloxBlock r = random_block(seed, purpose, step, element / 2);
  return element % 2 ? rng_detail::normal_from(r.word[2], r.word[3])
                     : rng_detail::normal_from(r.word[0], r.word[1]);
}

// N(0, 1) conditioned on |z| <= 2, by rejection; the attempt's number goes into the block's upper bits.
GLIA_HD double random_truncated_normal(uint64_t seed, uint32_t purpose, uint32_t step, uint64_t element) {
  for (uint64_t attempt = 0;; ++attempt) {
    const PhiloxBlock r = random_block(seed, purpose, step, element | attempt << 48);
    for (int half = 0; half < 2; ++half) {
      const double z = rng_detail::normal_from(r.word[2 * half], r.word[2 * half + 1]);
      if (z >= -2.0 && z <= 2.0) return z;
    }
  }
}

// Uniform on [0, n) from 64 bits; the bias is below n / 2^64.
inline uint64_t random_below(uint64_t n, uint64_t seed, uint32_t purpose, uint32_t step, uint64_t element) {
  const PhiloxBlock r = random_block(seed, purpose, step, element);
  const uint64_t bits = static_cast<uint64_t>(r.word[0]) << 32 | r.word[1];
  return static_cast<uint64_t>((static_cast<unsigned __int128>(bits) * n) >> 64);
}

// A uniformly random order of 0 … n−1 (Fisher–Yates).
inline std::vector<int32_t> random_permutation(int64_t n, uint64_t seed, uint32_t purpose, uint32_t step) {
  std::vector<int32_t> order(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) order[i] = static_cast<int32_t>(i);
  for (int64_t i = n - 1; i > 0; --i) std::swap(order[i], order[random_below(i + 1, seed, purpose, step, i)]);
  return order;
}

}  // namespace glia
