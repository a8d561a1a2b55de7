// Which kernels multiply (grouped_products.h).
#include "engine/ops/products/grouped_products.h"

#include "engine/ops/products/portable/gemm_portable.h"
#include "engine/ops/products/sm90/gemm_sm90.h"

namespace glia::cuda {

const GroupedProducts kHopperProducts = {"hopper",
                                         sm90::forward,
                                         sm90::forward_gelu,
                                         sm90::data_gradient,
                                         sm90::data_gradient_gelu,
                                         sm90::weight_gradient};
const GroupedProducts kPortableProducts = {"portable",
                                           portable::forward,
                                           portable::forward_gelu,
                                           portable::data_gradient,
                                           portable::data_gradient_gelu,
                                           portable::weight_gradient};

const GroupedProducts& grouped_products(const CudaHandles& cuda, int groups) {
  const bool hopper = cuda.hopper() && (groups <= sm90::kMaxGroups || cuda.kernels == Kernels::kHopper);
  return hopper ? kHopperProducts : kPortableProducts;
}

}  // namespace glia::cuda
