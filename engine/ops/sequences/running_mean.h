// What a row may know of its sequence so far: the mean of the rows up to its own, or one row's. With borders only rows in
// front of its sequence's border count, so that all rows from there on have the same.     x [T, N] → [T, N], 0 in the tail
//     borders int32 [B], a border of 0 is none; or undefined: there are none
#pragma once
#include "engine/ops/sequences/sequences.h"

namespace glia {

// y[t] = mean of x[s], s from the sequence's first row to t or the last row before the border, whichever comes first.
Var running_mean(const Var& x, const Sequences& sequences, const Tensor& borders = {});
// y[t] = x[s], s being t or that row.
Var held_at_border(const Var& x, const Sequences& sequences, const Tensor& borders);
// Whether the prompt has ended, and nothing else: 1 in the rows from the last one before the border on, 0 in those before and
// where there is no border.     → [T, N], each column the same; a constant
Tensor behind_border(const Sequences& sequences, const Tensor& borders, int64_t columns, DType dtype);

}  // namespace glia
