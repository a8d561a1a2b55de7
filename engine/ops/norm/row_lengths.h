// Euclidean lengths of long rows, without the squares in memory.
#pragma once
#include "engine/autograd.h"

namespace glia {

// y[r] = √(Σ_n x[r, n]² + 1e-20): a row of zeros has a gradient, 0.     x [R, N] → [R] in x's accumulation type
Var row_lengths(const Var& x);

}  // namespace glia
