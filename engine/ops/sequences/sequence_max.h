// The largest number of each column among a sequence's rows; the gradient goes to the first of equals.     x [T, N] → [B, N]
#pragma once
#include "engine/ops/sequences/sequences.h"

namespace glia {

Var sequence_max(const Var& x, const Sequences& sequences);

}  // namespace glia
