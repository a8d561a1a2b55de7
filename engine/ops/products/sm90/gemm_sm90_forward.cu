// y = x Wᵀ + b, with GELU on request: launchers (grouped_products.h).
#include "engine/ops/products/sm90/gemm_sm90_launch.cuh"

namespace glia::cuda::sm90 {

void forward(const void* x, const void* w, Bias bias, void* y, RowGroups groups, int outputs, int inputs,
             Stream stream) {
  Params p = {};
  p.bias = bias.data;
  p.bias_bf16 = bias.bf16;
  if (bias.data != nullptr)
    run_rows<Config<Op::kForward, Epilogue::kBias, Ping, 2>>(x, w, y, p, groups, outputs, inputs, stream);
  else run_rows<Config<Op::kForward, Epilogue::kStore, Ping, 2>>(x, w, y, p, groups, outputs, inputs, stream);
}

void forward_gelu(const void* x, const void* w, Bias bias, void* slopes, void* h, RowGroups groups, int outputs,
                  int inputs, Stream stream) {
  require(bias.data != nullptr, "GELU comes with a bias");
  Params p = {};
  p.bias = bias.data;
  p.bias_bf16 = bias.bf16;
  p.slopes = static_cast<uint4*>(slopes);
  if (slopes != nullptr)
    run_rows<Config<Op::kForward, Epilogue::kBiasGeluSlopes, Ping, 1>>(x, w, h, p, groups, outputs, inputs, stream);
  else run_rows<Config<Op::kForward, Epilogue::kBiasGelu, Ping, 2>>(x, w, h, p, groups, outputs, inputs, stream);
}

}  // namespace glia::cuda::sm90
