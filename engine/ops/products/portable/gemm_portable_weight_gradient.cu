// dW = dyᵀ x: launchers (grouped_products.h). A block adds all rows of its group for its tile, in their order.
#include "engine/ops/products/portable/mma_launch.cuh"

namespace glia::cuda::portable {

void weight_gradient(const void* dy, const void* x, void* dw, bool dw_bf16, RowGroups groups, int outputs,
                     int inputs, GemmWorkspace, Stream stream) {
  const Params p = with_operands({}, dy, x, dw, groups, inputs, outputs);
  const dim3 grid(tiles(inputs), tiles(outputs), static_cast<unsigned>(groups.groups));
  if (dw_bf16) launch_staged<Op::kWeightGradient, Epilogue::kStore>(grid, p, stream);
  else launch_staged<Op::kWeightGradient, Epilogue::kFloat>(grid, p, stream);
}

}  // namespace glia::cuda::portable
