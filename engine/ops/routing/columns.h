// Columns of matrices, for routers whose scores have columns beside the experts'.     float32 or float64
#pragma once
#include "engine/autograd.h"

namespace glia {

// Columns begin … end − 1.     x [T, N] → [T, end − begin]
Var columns(const Var& x, int64_t begin, int64_t end);
// a's columns, then b's.       a [T, N], b [T, M] → [T, N + M]
Var join_columns(const Var& a, const Var& b);
// Each row of x times its number.     x [T, H] in any floating dtype, by [T, 1] in its accumulation dtype → [T, H]
Var scale_rows(const Var& x, const Var& by);

}  // namespace glia
