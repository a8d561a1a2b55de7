// y = x Wᵀ + b, with GELU on request: launchers (gemm_sm90.h).
#include "engine/ops/products/sm90/gemm_sm90_launch.cuh"

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
    run_rows<Config<Op::kForward, Epilogue::kBias, Ping, 2>>(x, w, y, p, groups, outputs, inputs, stream);
  else run_rows<Config<Op::kForward, Epilogue::kStore, Ping, 2>>(x, w, y, p, groups, outputs, inputs, stream);
}

std::size_t gemm_slope_bytes(long long rows, long long columns) {
  return static_cast<std::size_t>((rows + 127) / 128 * ((columns + 127) / 128)) * 128 * 128 * 2;
}

void gemm_forward_gelu(const void* x, const void* w, Bias bias, void* slopes, void* h, RowGroups groups,
                       int outputs, int inputs, Stream stream) {
  using namespace sm90;
  require(bias.data != nullptr, "GELU comes with a bias");
  Params p = {};
  p.bias = bias.data;
  p.bias_bf16 = bias.bf16;
  p.slopes = static_cast<uint4*>(slopes);
  if (slopes != nullptr)
    run_rows<Config<Op::kForward, Epilogue::kBiasGeluSlopes, Ping, 1>>(x, w, h, p, groups, outputs, inputs, stream);
  else run_rows<Config<Op::kForward, Epilogue::kBiasGelu, Ping, 2>>(x, w, h, p, groups, outputs, inputs, stream);
}

}  // namespace glia::cuda
