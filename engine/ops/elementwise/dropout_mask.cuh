// The dropout mask on a GPU, drawn four elements at a time.
#pragma once
#include "engine/core/random/rng.h"
#include "engine/ops/rows/packs.cuh"

namespace glia::cuda {

// What a thread needs; made once a thread, so that the step is read once.
template <class A> struct DropoutMask {
  uint64_t seed, first;  // first: the block of element 0
  uint32_t purpose, step, threshold;
  A scale;

  __device__ DropoutMask(const RandomKey& key, uint32_t threshold, A scale)
      : seed(key.seed),
        first(first_block(key)),
        purpose(key.purpose),
        step(key.step ? *key.step : 0u),
        threshold(threshold),
        scale(scale) {}

  // Bit k: element i + k is kept; i is a multiple of W, W is 1, 2, 4 or 8.
  template <int W> __device__ __forceinline__ uint32_t keep(int64_t i) const {
    constexpr int kBlocks = W > 4 ? W / 4 : 1, kEach = W > 4 ? 4 : W;
    uint32_t bits = 0;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      const PhiloxBlock r = random_block(seed, purpose, step, first + static_cast<uint64_t>(i) / 4 + b);
      const int offset = W >= 4 ? 0 : static_cast<int>(i % 4);
#pragma unroll
      for (int k = 0; k < kEach; ++k) {
        // Selects, not an index: an indexed array would go to local memory.
        uint32_t word = r.word[k];
        if (W < 4) {
#pragma unroll
          for (int w = 0; w < 4; ++w) word = offset + k == w ? r.word[w] : word;
        }
        bits |= (word < threshold ? 0u : 1u) << (4 * b + k);
      }
    }
    return bits;
  }

  // v[k] *= keep / (1 − p), from bits that keep() gave.
  template <int W> __device__ __forceinline__ void apply_bits(uint32_t bits, A (&v)[W]) const {
#pragma unroll
    for (int k = 0; k < W; ++k) v[k] = bits >> k & 1u ? v[k] * scale : A{0};
  }

  // The same for the elements i … i + W − 1.
  template <int W> __device__ __forceinline__ void apply(int64_t i, A (&v)[W]) const { apply_bits(keep<W>(i), v); }
};

}  // namespace glia::cuda
