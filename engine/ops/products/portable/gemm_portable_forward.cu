// y = x Wᵀ + b, with GELU on request: launchers (grouped_products.h).
#include "engine/ops/products/portable/mma_launch.cuh"

namespace glia::cuda::portable {

void forward(const void* x, const void* w, Bias bias, void* y, RowGroups groups, int outputs, int inputs,
             Stream stream) {
  Params p = {};
  p.bias = bias;
  run_rows<Op::kForward, Epilogue::kStore>(x, w, y, p, groups, outputs, inputs, stream);
}

void forward_gelu(const void* x, const void* w, Bias bias, void* slopes, void* h, RowGroups groups, int outputs,
                  int inputs, Stream stream) {
  require(bias.data != nullptr, "GELU comes with a bias");
  Params p = {};
  p.bias = bias;
  p.slopes = static_cast<uint4*>(slopes);
  run_rows<Op::kForward, Epilogue::kGelu>(x, w, h, p, groups, outputs, inputs, stream);
}

}  // namespace glia::cuda::portable
