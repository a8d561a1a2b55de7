// The MoE path's arithmetic that both compilers compile.
#pragma once
#include <cmath>
#include <cstdint>

#include "engine/core/host_device.h"

namespace glia {

template <class A> GLIA_HD A logistic(A c) { return A(1) / (A(1) + exp(-c)); }

// The index that comes after `last` in the order "larger value(e), then lower index"; last −1: the first of all. −1:
// there is none, or NaN compares with nothing.
template <class F> GLIA_HD int32_t next_largest(int64_t n, int32_t last, F value) {
  int32_t best = -1;
  for (int32_t e = 0; e < n; ++e) {
    if (last >= 0 && (value(e) > value(last) || (value(e) == value(last) && e <= last))) continue;
    if (best < 0 || value(e) > value(best)) best = e;
  }
  return best;
}

// The k largest of logits[0 … experts), lower index first among equals, and the softmax over them.
template <class A>
GLIA_HD void choose_and_gate(const A* logits, int64_t experts, int64_t k, A* gates, int32_t* chosen) {
  A total = 0;
  for (int64_t i = 0; i < k; ++i) {
    const int32_t best = next_largest(experts, i > 0 ? chosen[i - 1] : -1, [=](int32_t e) { return logits[e]; });
    chosen[i] = best < 0 ? static_cast<int32_t>(i) : best;  // stay in range whatever comes
    gates[i] = exp(logits[chosen[i]] - logits[chosen[0]]);
    total += gates[i];
  }
  for (int64_t i = 0; i < k; ++i) gates[i] /= total;
}

// The k largest of weights + bias (weights nullptr: nobody; bias nullptr: 0), each weighed by its weight alone.
template <class A>
GLIA_HD void choose_biased(const A* weights, const A* bias, int64_t experts, int64_t k, A* gates, int32_t* chosen) {
  for (int64_t i = 0; i < k; ++i) {
    chosen[i] = -1, gates[i] = 0;
    if (!weights) continue;
    const int32_t best = next_largest(experts, i > 0 ? chosen[i - 1] : -1,
                                      [=](int32_t e) { return bias ? weights[e] + bias[e] : weights[e]; });
    chosen[i] = best < 0 ? static_cast<int32_t>(i) : best;
    gates[i] = weights[chosen[i]];
  }
}

// By descending choice, −∞ never; weighed by the weights (nullptr: nobody). The slots that are left go to nobody.
template <class A>
GLIA_HD void choose_allowed(const A* weights, const A* choice, int64_t experts, int64_t slots, A* gates,
                            int32_t* chosen) {
  int32_t last = -1;
  bool more = weights != nullptr;
  for (int64_t i = 0; i < slots; ++i) {
    const int32_t best = more ? next_largest(experts, last, [=](int32_t e) { return choice[e]; }) : -1;
    more = best >= 0 && !(choice[best] == -A(INFINITY));
    chosen[i] = last = more ? best : -1;
    gates[i] = more ? weights[best] : A(0);
  }
}

// By descending weight (nullptr: nobody) until their sum exceeds p; the slots that are left go to nobody. Whether more
// slots were wanted.
template <class A>
GLIA_HD bool choose_until(const A* weights, int64_t experts, int64_t slots, A p, A* gates, int32_t* chosen) {
  A sum = 0;
  bool more = weights != nullptr;
  for (int64_t i = 0; i < slots; ++i) {
    int32_t best =
        more ? next_largest(experts, i > 0 ? chosen[i - 1] : -1, [=](int32_t e) { return weights[e]; }) : -1;
    if (more && best < 0 && i == 0) best = 0;  // NaN goes on to the loss, where it is seen
    chosen[i] = best;
    gates[i] = best >= 0 ? weights[best] : A(0);
    sum += gates[i];
    more = more && best >= 0 && !(sum > p);
  }
  return more && slots < experts;
}

// What the rule "less where the load is above the mean" adds to expert e's bias.
template <class A> GLIA_HD A load_bias_step(const A* counts, int64_t e, int64_t experts, A rate) {
  A mean = 0;
  for (int64_t i = 0; i < experts; ++i) mean += counts[i];
  mean /= static_cast<A>(experts);
  return counts[e] < mean ? rate : counts[e] > mean ? -rate : A(0);
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

// Where the losses were given dlosses [2] and the importance itself dimportance [E]; either may be nullptr.
template <class A>
GLIA_HD A load_gradient(const A* importance, int64_t e, int64_t experts, A real, const A* dlosses,
                        const A* dimportance) {
  A d = dlosses ? importance_gradient(importance, e, experts, real, dlosses[0], dlosses[1]) : A(0);
  if (dimportance) d += dimportance[e];
  return d;
}

}  // namespace glia
