// A choice among the E experts and X columns beside them that are no FFN: null, zero, copy, constant. The K largest of
// all; what a column does with its gate is its router's affair.
#pragma once
#include "moe/routers/parts.h"

namespace glia {

struct WideChoice {
  Tensor experts;  // int32 [T, K] columns by descending logit; −1 in the tail
  Tensor kept;     // [T, E + X] 1 where chosen, else 0
};
// logits [T, E + X], 0 in the tail
WideChoice choose_wide(const Var& logits, int64_t k, const Sequences& sequences);

// The routing of its pairs with experts, by descending score.     scores, gates [T, E]
Routing routing_of(const WideChoice& choice, Var scores, const Var& gates, const Sequences& sequences);

namespace oracle {
// Of one token: its K columns by descending logit.
std::vector<int32_t> wide_order(const double* logits, int64_t columns, int64_t k);
}  // namespace oracle

}  // namespace glia
