#include "engine/device/cuda/launch.cuh"
#include "engine/ops/ranks/own_experts_kernels.h"

namespace glia::cuda {

void own_choices(const OwnExperts& k, const int32_t* experts, int32_t* own, Stream stream) {
  for_each("own_choices", k.n, stream, [=] __device__(int64_t i) { own[i] = k.of(experts[i]); });
}

}  // namespace glia::cuda
