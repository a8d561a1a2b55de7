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
  std::array<Var, 4> weights;  // of all E experts: w1, b1, w2, b2 of expert_ffn
  // Their gradients' memory; undefined of what is not trained, or has none of its own.
  std::array<Tensor, 4> gradients;
  int ranks;  // of a group: a divisor of E and of the number of ranks
  // Nobody else adds to their gradients: expert_layer_over_ranks may leave the others' part as it is.
  bool own = false;

  DType gradient_dtype(size_t i) const {
    return gradients[i].defined() ? gradients[i].dtype() : weights[i].dtype();
  }
};

// expert_ffn(x, …, offsets), in the memory of a CPU, which knows the counts. The gradients of weights hold this rank's experts' for
// the rows of all ranks of its group, and −0, which changes no sum, for the others. All ranks call it, and its gradient, in the
// same order.     x [N, H] of which rows [0, offsets[E]) are experts', without gaps → [N, H], 0 behind them
Var expert_ffn_over_ranks(const Var& x, const DividedExperts& experts, const Tensor& offsets);

// expert_layer(x, gates, dispatch of `experts`, …) where nobody may wait for counts, on any device: all ranks are one group, each of
// which gets the rows, choices and gates of all, computes its experts for them, and gives each rank the sum of its rows; backward the
// same way. What is sent has one size whatever is chosen, (R − 1) T H elements a rank of x, y and their gradients each, and a captured
// step holds it. The weights' gradients are as above.
//     x [T, H], gates [T, K], experts int32 [T, K] (−1: nobody), of one shape on all ranks → [T, H]; capacity: as make_dispatch has it
Var expert_layer_over_ranks(const Var& x, const Var& gates, const Tensor& experts, int64_t capacity,
                            const DividedExperts& divided);

}  // namespace glia
