// The transformer's two-layer network: y = gelu(x w1ᵀ + b1) w2ᵀ + b2, erf GELU.
//     x [.., H], w1 [F, H], b1 [F], w2 [O, F], b2 [O] or undefined → [.., O]
// On a GPU in bfloat16 (H, F, O multiples of 8): two fused kernels forward, as for the experts (moe.h, expert_ffn).
#pragma once
#include "engine/autograd.h"

namespace glia {

Var feed_forward(const Var& x, const Var& w1, const Var& b1, const Var& w2, const Var& b2);
Var feed_forward_reference(const Var& x, const Var& w1, const Var& b1, const Var& w2, const Var& b2);

}  // namespace glia
