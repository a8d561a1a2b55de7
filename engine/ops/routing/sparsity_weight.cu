#include "engine/device/cuda/launch.cuh"
#include "engine/ops/routing/sparsity_weight_kernels.h"

namespace glia::cuda {

template <class A>
void sparsity_weight(const SparsityRule& r, const A* counts, const A* tokens, A* weight, A* progress,
                     Stream stream) {
  for_each("update_sparsity_weight", 1, stream,
           [=] __device__(int64_t) { sparsity_step(r, counts, tokens, weight, progress); });
}

template void sparsity_weight(const SparsityRule&, const float*, const float*, float*, float*, Stream);
template void sparsity_weight(const SparsityRule&, const double*, const double*, double*, double*, Stream);

}  // namespace glia::cuda
