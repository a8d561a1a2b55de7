// Fills memory with normal numbers on the device where it lies: what initialises 88 million weights in a
// millisecond.
#pragma once
#include "engine/ops/random_fill_kernels.h"
#include "engine/tensor.h"

namespace glia {

// Any floating dtype, any shape; the numbers do not depend on the device or on what else is drawn.
void fill_normal(const Tensor& x, const NormalFill& f);

}  // namespace glia
