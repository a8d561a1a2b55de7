// x = N(0, std²), or x += N(0, std²) when add; element i is drawn at (seed, purpose, step, i), the same on both
// devices.
#pragma once
#include <cmath>
#include <cstdint>

#include "engine/core/random/rng.h"
#include "engine/device/stream.h"

namespace glia {

struct NormalFill {
  double std = 1;
  uint64_t seed = 0;
  uint32_t purpose = 0, step = 0;
  bool add = false;
};

// Element i from word i % 4 of block i / 4 at (seed, purpose, step).
struct UniformFill {
  double low = 0, high = 1;
  uint64_t seed = 0;
  uint32_t purpose = 0, step = 0;
};

// One explicit fma, so that both compilers give the same bits.
GLIA_HD double uniform_element(const UniformFill& f, int64_t i) {
  return fma(f.high - f.low,
             static_cast<double>(uniform_from(random_bits(f.seed, f.purpose, f.step, static_cast<uint64_t>(i)))),
             f.low);
}

namespace cpu {
template <class T> void fill_normal(T* x, int64_t n, const NormalFill& f);
template <class T> void fill_uniform(T* x, int64_t n, const UniformFill& f);
template <class T> void fill_bernoulli(T* x, int64_t n, double p, const UniformFill& f);
void fill_bits(int32_t* x, int64_t n, const UniformFill& f);
}  // namespace cpu
namespace cuda {
template <class T> void fill_normal(T* x, int64_t n, const NormalFill& f, Stream stream);
template <class T> void fill_uniform(T* x, int64_t n, const UniformFill& f, Stream stream);
template <class T> void fill_bernoulli(T* x, int64_t n, double p, const UniformFill& f, Stream stream);
void fill_bits(int32_t* x, int64_t n, const UniformFill& f, Stream stream);
}  // namespace cuda

}  // namespace glia
