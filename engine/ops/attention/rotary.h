// Rotary positions (Su et al. 2021, docs/science.md 12): in each head, columns i and i + D / 2 of a query and of a key are turned
// by place · 10000^(−2i / D), so that a product of the two depends on how far they are apart and on nothing else.
#pragma once
#include "engine/ops/sequences/sequences.h"

namespace glia {

// q and k turned, v as it is. A row's place is that within its sequence, behind `before` earlier rows.
//     qkv [T, 3H] as attention() has it, H = heads · D, D even → [T, 3H]; the tail's rows are 0
Var rotate(const Var& qkv, const Sequences& sequences, int64_t heads, int64_t before = 0);

}  // namespace glia
