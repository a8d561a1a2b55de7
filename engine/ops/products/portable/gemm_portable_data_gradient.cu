// dx = dy W, with GELU' and column sums on request: launchers (grouped_products.h).
#include "engine/ops/products/portable/mma_launch.cuh"

namespace glia::cuda::portable {

void data_gradient(const void* dy, const void* w, void* dx, RowGroups groups, int outputs, int inputs,
                   Stream stream) {
  run_rows<Op::kDataGradient, Epilogue::kStore>(dy, w, dx, {}, groups, inputs, outputs, stream);
}

void data_gradient_gelu(const void* dy, const void* w, const void* slopes, void* dpre, float* partial,
                        RowGroups groups, int outputs, int inputs, Stream stream) {
  require(partial != nullptr && slopes != nullptr, "GELU's gradient needs its slopes and room for the column sums");
  Params p = {};
  p.slopes = static_cast<uint4*>(const_cast<void*>(slopes));
  p.partial = partial;
  run_rows<Op::kDataGradient, Epilogue::kSlopes>(dy, w, dpre, p, groups, inputs, outputs, stream);
}

}  // namespace glia::cuda::portable
