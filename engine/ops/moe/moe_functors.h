// The MoE path's arithmetic that both compilers compile.
#pragma once
#include <cmath>
#include <cstdint>

#include "engine/core/host_device.h"

namespace glia {

template <class A> GLIA_HD A logistic(A c) { return A(1) / (A(1) + exp(-c)); }

// The k largest of logits[0 … experts), lower index first among equals, and the softmax over them.
template <class A>
GLIA_HD void choose_and_gate(const A* logits, int64_t experts, int64_t k, A* gates, int32_t* chosen) {
  A total = 0;
  for (int64_t i = 0; i < k; ++i) {
    int32_t best = -1;
    for (int32_t e = 0; e < experts; ++e) {
      // Taken already: before (in the order "larger, then lower index") or equal to the previous choice.
      if (i > 0) {
        const A last = logits[chosen[i - 1]];
        if (logits[e] > last || (logits[e] == last && e <= chosen[i - 1])) continue;
      }
      if (best < 0 || logits[e] > logits[best]) best = e;
    }
    chosen[i] = best < 0 ? static_cast<int32_t>(i) : best;  // NaN logits compare with nothing; stay in range
    gates[i] = exp(logits[chosen[i]] - logits[chosen[0]]);
    total += gates[i];
  }
  for (int64_t i = 0; i < k; ++i) gates[i] /= total;
}

// Balance and energy from the importance, in expert order; below, d(loss)/d(importance_e) for weights on the two.
template <class A> GLIA_HD void losses_of(const A* importance, int64_t experts, A real, A* losses) {
  A mean = 0, variance = 0, energy = 0;
  for (int64_t e = 0; e < experts; ++e) mean += importance[e];
  mean /= static_cast<A>(experts);
  for (int64_t e = 0; e < experts; ++e) {
    const A d = importance[e] - mean, share = importance[e] / real;
    variance += d * d, energy += share * share;
  }
  if (experts > 1) variance /= static_cast<A>(experts - 1);
  losses[0] = variance / (mean * mean + A(1e-8));
  losses[1] = energy;
}

template <class A>
GLIA_HD A importance_gradient(const A* importance, int64_t e, int64_t experts, A real, A dbalance, A denergy) {
  A mean = 0, variance = 0;
  for (int64_t i = 0; i < experts; ++i) mean += importance[i];
  mean /= static_cast<A>(experts);
  for (int64_t i = 0; i < experts; ++i) variance += (importance[i] - mean) * (importance[i] - mean);
  const A freedom = experts > 1 ? static_cast<A>(experts - 1) : A(1);
  variance /= freedom;
  const A scale = mean * mean + A(1e-8);
  const A balance = A(2) * (importance[e] - mean) / (freedom * scale) -
                    variance * A(2) * mean / (static_cast<A>(experts) * scale * scale);
  return dbalance * balance + denergy * A(2) * importance[e] / (real * real);
}

}  // namespace glia
