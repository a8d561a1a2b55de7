// Experts that are divided over ranks: a group is as many ranks in a row, each of which has as many experts, the first rank the first
// ones. A row travels to whoever has its expert and comes back; nobody's is dropped, however many want one expert.
//
// Each rank computes its experts on one sender's rows after the other's, as the sender would have, and adds the gradients of the
// weights along the tree of exact sums (engine/comm/reduce.h). So, where a group is a node of that tree, which it is if its size is a
// power of two, the bits are those of experts that every rank has.
#pragma once
#include <array>

#include "engine/autograd.h"

namespace glia {

struct DividedExperts {
  std::array<Var, 4> weights;      // of all E experts: w1, b1, w2, b2 of expert_ffn
  std::array<DType, 4> gradients;  // what their gradients are in
  int ranks;                       // of a group: a divisor of E and of the number of ranks
};

// expert_ffn(x, …, offsets), in the memory of a CPU, which knows the counts. The gradients of weights hold this rank's experts' for
// the rows of all ranks of its group, and −0, which changes no sum, for the others. All ranks call it, and its gradient, in the
// same order.     x [N, H] of which rows [0, offsets[E]) are experts', without gaps → [N, H], 0 behind them
Var expert_ffn_over_ranks(const Var& x, const DividedExperts& experts, const Tensor& offsets);

// Tensor [E, ..] := in place what each rank of the one group of all ranks has of its own experts.
void gather_experts(const Tensor& all);

}  // namespace glia
