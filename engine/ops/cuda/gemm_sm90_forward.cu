// y = x Wᵀ + b, with GELU on request: launchers (gemm_sm90.h).
#include "engine/ops/cuda/gemm_sm90_launch.cuh"

namespace glia::cuda {

bool gemm_sm90_available() {
  return sm90::device_value(cudaDevAttrComputeCapabilityMajor) == 9 &&
         sm90::device_value(cudaDevAttrComputeCapabilityMinor) == 0;
}

void gemm_forward(const void* x, const void* w, Bias bias, void* y, RowGroups groups, int outputs, int inputs,
                  Stream stream) {
  using namespace sm90;
  Params p = {};
  p.bias = bias.data;
  p.bias_bf16 = bias.bf16;
  if (bias.data != nullptr)
    run_rows<Config<Op::kForward, Epilogue::kBias, Ping, 2>>(x, w, y, nullptr, p, groups, outputs, inputs, stream);
  else
    run_rows<Config<Op::kForward, Epilogue::kStore, Ping, 2>>(x, w, y, nullptr, p, groups, outputs, inputs, stream);
}

void gemm_forward_gelu(const void* x, const void* w, Bias bias, void* pre, void* h, RowGroups groups, int outputs,
                       int inputs, Stream stream) {
  using namespace sm90;
  require(bias.data != nullptr, "GELU comes with a bias");
  Params p = {};
  p.bias = bias.data;
  p.bias_bf16 = bias.bf16;
  p.write_pre = pre != nullptr;
  run_rows<Config<Op::kForward, Epilogue::kBiasGelu, Ping, 1>>(x, w, h, pre, p, groups, outputs, inputs, stream);
}

}  // namespace glia::cuda
