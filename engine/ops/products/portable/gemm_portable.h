// Matrix products for every GPU from sm_80 on (cp.async, ldmatrix, mma.sync); any number of groups.
#pragma once

#include "engine/ops/products/grouped_products.h"

namespace glia::cuda::portable {

#include "engine/ops/products/gemm_functions.inc"

}  // namespace glia::cuda::portable
