// Who may be chosen at all: choices for choose_among() in which the others are −∞. Constants: nothing flows back. The rule
// of ties is everywhere the lower index first.
#pragma once
#include "engine/ops/sequences/sequences.h"

namespace glia {

// x[t, e] where e's value for t is among the max(1, ⌊length · share⌋) largest of t's sequence, else −∞: each expert takes
// its tokens.     x [T, E], 0 < share <= 1 → [T, E]; −∞ in the tail
Tensor keep_top_rows(const Tensor& x, double share, const Sequences& sequences);
// x[t, e] where x[t, e] >= bound[e], else −∞.     x [T, E], bound [E] → [T, E]
Tensor keep_at_least(const Tensor& x, const Tensor& bound);
// 0 for the m largest of a row, −∞ for the others; m = least, or with u in [0, 1) a whole number from least to most.
//     x [R, N], 1 <= least <= most <= N, u [R] in x's dtype or undefined → [R, N]
Tensor keep_largest(const Tensor& x, int64_t least, int64_t most, const Tensor& u);
// The (⌊T_real · share⌋ + beyond)-th largest number of each column among the rows of all ranks' sequences, from the first
// to the last of them at the edges.     x [T, E], of one shape on all ranks → [E]
Tensor column_rank(const Tensor& x, double share, int64_t beyond, const Sequences& sequences);

}  // namespace glia
