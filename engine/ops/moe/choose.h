// Choices other than the softmax over the K largest: which experts, by one tensor; how much of each, by another. And
// what a router counts to keep them balanced. Letters as in moe.h; S slots a token.
#pragma once
#include "engine/ops/moe/moe.h"

namespace glia {

// The K experts with the largest weights_e + bias_e, ties to the lower expert, each weighed by its entry of `weights`:
// gates need not sum to 1. The gradient goes to the weights alone.
//     weights [T, E], bias [E] in one dtype, or undefined: none
Gates choose(const Var& weights, const Tensor& bias, int64_t k, const Sequences& sequences);

// At most `slots` experts of each token, by descending choice, ties to the lower expert; an expert whose choice is −∞ is
// nobody's. Each is weighed by its entry of `weights`, where alone the gradient goes.     weights, choice [T, E] in one
// dtype → gates [T, S], 0 in slots that are not used; experts −1 there
Gates choose_among(const Var& weights, const Tensor& choice, int64_t slots, const Sequences& sequences);

// The smallest set of experts, by descending weight, whose weights sum to more than p; all of them where rounding
// never gets there. At most `slots` are kept. The gates are the weights.     weights [T, E]
struct TopP {
  Var gates;        // [T, S]; 0 in slots that are not used
  Tensor experts;   // int32 [T, S]; −1 in slots that are not used
  Tensor overflow;  // [1] in the gates' dtype: how many tokens wanted more than S experts
};
TopP choose_top_p(const Var& weights, double p, int64_t slots, const Sequences& sequences);

// How many pairs each expert has.     experts int32 [T, S] (−1: nobody) → [E] in `dtype`
Tensor expert_counts(const Tensor& experts, int64_t n_experts, DType dtype);

// bias_e += rate · sign(mean(counts) − counts_e)  (Wang et al. 2024, algorithm 1).     bias, counts [E] in one dtype
void update_load_bias(const Tensor& bias, const Tensor& counts, double rate);

}  // namespace glia
