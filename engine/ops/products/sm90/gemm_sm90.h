// Matrix products for Hopper (sm_90a: TMA and wgmma); E at most 256, and weight_gradient wants a workspace of
// workspace_bytes().
#pragma once

#include "engine/ops/products/grouped_products.h"

namespace glia::cuda::sm90 {

constexpr int kMaxGroups = 256;  // a byte names a group

#include "engine/ops/products/gemm_functions.inc"

std::size_t workspace_bytes();  // enough for every size on the current device

}  // namespace glia::cuda::sm90
