// Top-k routing of one layer in one step: logits, gates, choices and load losses. On CUDA in bfloat16 with at most
// 8 experts that is three launches each way; elsewhere, and as the reference, the ops of moe.h one by one.
// Letters as in moe.h: T rows (tail included), H columns, E experts, K choices a row, B sequences.
#pragma once
#include "engine/ops/moe/moe.h"

namespace glia {

// What a sequence adds to (or multiplies) its rows' logits.
struct RouteContext {
  ContextMode mode = ContextMode::kNone;
  Var weight, bias;  // [E, H], [E]: logits of each sequence's first row; or both undefined and
  Var logits;        // [B, E]: given
};

struct Routed {
  Var logits;      // [T, E] float32 (float64 for float64), 0 in the tail
  Var gates;       // [T, K], rows sum to 1; 0 in the tail
  Var losses;      // [2] = {balance, energy} of load_losses
  Var importance;  // [E], which these are made of
  Tensor experts;  // int32 [T, K], by descending logit; −1 in the tail
};

// x [T, H], w [E, H], b [E] (float32, or float64 for float64); `first`: the same sequences as one row each.
Routed route(const Var& x, const Var& w, const Var& b, const RouteContext& context, int64_t k,
             const Sequences& sequences, const Sequences& first);
Routed route_reference(const Var& x, const Var& w, const Var& b, const RouteContext& context, int64_t k,
                       const Sequences& sequences, const Sequences& first);

}  // namespace glia
