// The two kernels that attention_backward_tiled launches, each compiled by itself.
#pragma once
#include "engine/ops/attention/attention_tiled.cuh"

namespace glia::cuda::attention_tiled {

void launch_dq(const AttentionArgs& args, const TensorParams& p, Stream stream);   // attention_tiled_dq.cu
void launch_dkv(const AttentionArgs& args, const TensorParams& p, Stream stream);  // attention_tiled_dkv.cu

}  // namespace glia::cuda::attention_tiled
