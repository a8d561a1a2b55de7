// Kernels of noisy_load.cpp; all tensors [T, E].
#pragma once
#include <cstdint>

#include "engine/core/math.h"
#include "engine/device/stream.h"
#include "engine/ops/moe/moe_functors.h"

namespace glia {

struct NoisyLoadShape {
  int64_t tokens, experts, k;
};

// A row's k-th and (k + 1)-th largest noisy logits: what experts outside, and inside, have to beat.
template <class A> GLIA_HD void load_thresholds(const A* noisy, int64_t experts, int64_t k, int32_t (&at)[2]) {
  int32_t last = -1;
  for (int64_t i = 0; i <= k; ++i) {
    const int32_t next = next_largest(experts, last, [=](int32_t e) { return noisy[e]; });
    last = next < 0 ? static_cast<int32_t>(i) : next;  // NaN: stay in range
    if (i == k - 1) at[0] = last;
  }
  at[1] = last;
}

template <class A>
GLIA_HD void noisy_load_row(const A* clean, const A* std, const A* noisy, int64_t experts, int64_t k, A* p) {
  int32_t at[2] = {};
  load_thresholds(noisy, experts, k, at);
  for (int64_t e = 0; e < experts; ++e)
    p[e] = math::normal((clean[e] - noisy[at[noisy[e] > noisy[at[1]]]]) / std[e]).cdf;
}

// With z = (clean − threshold) / std and d = dp φ(z) / std:  dclean = d, dthreshold = −Σ d, dstd = −d z
template <class A>
GLIA_HD void noisy_load_gradient_row(const A* clean, const A* std, const A* noisy, const A* dp, int64_t experts,
                                     int64_t k, A* dclean, A* dstd, A* dnoisy) {
  int32_t at[2] = {};
  load_thresholds(noisy, experts, k, at);
  A through[2] = {};
  for (int64_t e = 0; e < experts; ++e) {
    const bool inside = noisy[e] > noisy[at[1]];
    const A z = (clean[e] - noisy[at[inside]]) / std[e], d = dp[e] * math::normal(z).pdf / std[e];
    dclean[e] = d, dstd[e] = -d * z, dnoisy[e] = 0;
    through[inside] -= d;
  }
  for (int i = 0; i < 2; ++i) dnoisy[at[i]] = through[i];
}

namespace cpu {
template <class A>  // p =
void noisy_load(const NoisyLoadShape& s, const A* clean, const A* std, const A* noisy, A* p);
template <class A>  // dclean, dstd, dnoisy =
void noisy_load_gradient(const NoisyLoadShape& s, const A* clean, const A* std, const A* noisy, const A* dp,
                         A* dclean, A* dstd, A* dnoisy);
}  // namespace cpu
namespace cuda {
template <class A>
void noisy_load(const NoisyLoadShape& s, const A* clean, const A* std, const A* noisy, A* p, Stream stream);
template <class A>
void noisy_load_gradient(const NoisyLoadShape& s, const A* clean, const A* std, const A* noisy, const A* dp,
                         A* dclean, A* dstd, A* dnoisy, Stream stream);
}  // namespace cuda

}  // namespace glia
