// Weighted means of experts' weights, one a sequence (Muqeeth et al. 2023, SMEAR). Letters: B sequences, E experts, N
// elements of one expert's tensor.
#pragma once
#include "engine/autograd.h"

namespace glia {

// w_b = Σ_e p[b, e] w[e], e ascending, summed in w's type, rounded once.     p [B, E], w [E, …] → [B, …] in `type`
// p and w have the accumulation type of `type`: float32 for bfloat16 and float32, or float64. The result's gradient comes in
// `type`; the sums of dp and dw are kept, like p and w, in theirs.
// Errors: other shapes, types or contexts; no expert.
Var merge_experts(const Var& p, const Var& w, DType type);

}  // namespace glia
