// Fills memory with random numbers on the device where it lies: 88 million weights take a millisecond.
#pragma once
#include "engine/ops/elementwise/random_fill_kernels.h"
#include "engine/tensor.h"

namespace glia {

// Any floating dtype, any shape; the numbers do not depend on the device or on what else is drawn.
void fill_normal(const Tensor& x, const NormalFill& f);
// low + (high − low) u, u uniform in [0, 1) with 24 bits; computed in float64.
void fill_uniform(const Tensor& x, const UniformFill& f);
// 1 with probability p, else 0.
void fill_bernoulli(const Tensor& x, double p, const UniformFill& f);
// The random bits themselves.     x int32
void fill_bits(const Tensor& x, const UniformFill& f);

}  // namespace glia
