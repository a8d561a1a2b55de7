// Reductions over one axis (removed from the shape) or over everything (shape []). Sums run in a fixed order;
// bfloat16 is summed in float32. max: the gradient goes to the first maximum.
#pragma once
#include "engine/autograd.h"

namespace glia {

Var sum(const Var& x, int axis);
Var mean(const Var& x, int axis);
Var max(const Var& x, int axis);
Var sum(const Var& x);   // → []
Var mean(const Var& x);  // → []

}  // namespace glia
