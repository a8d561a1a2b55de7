// Kernels of sparsity_weight.cpp.
#pragma once
#include <cstdint>

#include "engine/core/host_device.h"
#include "engine/device/stream.h"

namespace glia {

struct SparsityRule {
  int64_t experts;
  double wanted_share, factor;
  bool first;
};

template <class A>
GLIA_HD void sparsity_step(const SparsityRule& r, const A* counts, const A* tokens, A* weight, A* progress) {
  if (r.first) progress[0] = *weight, progress[1] = progress[2] = 0;
  A pairs = 0;
  for (int64_t e = 0; e < r.experts; ++e) pairs += counts[e];
  progress[1] += pairs / (*tokens * static_cast<A>(r.experts)), progress[2] += 1;
  const bool dense = progress[1] > static_cast<A>(r.wanted_share) * progress[2];
  *weight = dense ? progress[0] * static_cast<A>(r.factor) : progress[0] / static_cast<A>(r.factor);
}

namespace cpu {
template <class A>  // weight [1], progress [3] are changed
void sparsity_weight(const SparsityRule& r, const A* counts, const A* tokens, A* weight, A* progress);
}
namespace cuda {
template <class A>
void sparsity_weight(const SparsityRule& r, const A* counts, const A* tokens, A* weight, A* progress,
                     Stream stream);
}

}  // namespace glia
