// Sums over the ranks within a forward pass, and what a rank's part of a batch weighs. Of one rank alone nothing is
// computed.
#pragma once
#include <functional>

#include "engine/ops/sequences/sequences.h"

namespace glia {

// y = Σ over ranks of x, the same bits on each of them. Whoever differentiates gives each rank's loss its share of the
// whole: dx = Σ over ranks of dy.     x of one shape on all ranks
Var sum_over_ranks(const Var& x);

// The rows of all ranks, one after the other.     x [T, H], of one shape on all ranks → [R T, H]
Tensor rows_of_all_ranks(const Tensor& x);

// all [n, ..] := in place what each rank has of its own part, the rank-th of as many equal ones.     n a multiple of R
void gather_own_parts(const Tensor& all);

// y = x. In backward, when all that was computed from y has its gradient, calls f: what is below may still be computed.
Var when_differentiated(const Var& x, std::function<void()> f);

// The rows that belong to a sequence: [] in `dtype`, on the device.
Tensor real_rows(const Sequences& sequences, DType dtype);
// Of the rows of all ranks the part that this one has, n times: [n] in `dtype`.
Tensor share_of_rows(const Sequences& sequences, DType dtype, int64_t n);

}  // namespace glia
