// y = x + b and y = gelu(x + b), b along the last axis.     x [.., N], b [N] → y [.., N]
// db = Σ over all leading axes, in a fixed order. b may be float32 where x is bfloat16 (a master weight).
#pragma once
#include "engine/autograd.h"

namespace glia {

Var bias_add(const Var& x, const Var& b);
Var bias_gelu(const Var& x, const Var& b);            // fused; saves x (which nobody else keeps) and b
Var bias_gelu_reference(const Var& x, const Var& b);  // gelu(bias_add(x, b))

}  // namespace glia
