// Rows divided by a norm of their own, for gates and for cosines. Short rows: a thread takes one.     x [T, N]
// (float32 or float64) → [T, N]
#pragma once
#include "engine/autograd.h"

namespace glia {

// y = x / (Σ_n x_n + 1e-20): shares of the row; rows of zeros stay zeros. For rows that are not negative.
Var share_rows(const Var& x);
// y = x / max(‖x‖₂, 1e-12): directions; rows of zeros stay zeros.
Var unit_rows(const Var& x);

}  // namespace glia
