// dx = dy W, with GELU' and column sums on request: launchers (grouped_products.h).
#include "engine/ops/products/sm90/gemm_sm90_launch.cuh"

namespace glia::cuda::sm90 {

void data_gradient(const void* dy, const void* w, void* dx, RowGroups groups, int outputs, int inputs,
                   Stream stream) {
  using C = Config<Op::kDataGradient, Epilogue::kStore, Quad, 2>;
  run_rows<C>(dy, w, dx, Params{}, groups, outputs, inputs, stream);
}

void data_gradient_gelu(const void* dy, const void* w, const void* slopes, void* dpre, float* partial,
                        RowGroups groups, int outputs, int inputs, Stream stream) {
  require(partial != nullptr && slopes != nullptr, "GELU's gradient needs its slopes and room for the column sums");
  Params p = {};
  p.column_partial = partial;
  p.slopes = static_cast<uint4*>(const_cast<void*>(slopes));
  using C = Config<Op::kDataGradient, Epilogue::kGeluGradient, Ping, 1>;
  run_rows<C>(dy, w, dpre, p, groups, outputs, inputs, stream);
}

}  // namespace glia::cuda::sm90
