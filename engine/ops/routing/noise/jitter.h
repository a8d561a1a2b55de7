// Multiplicative noise on what a router reads (Switch; docs/science.md 7): y = x · u, u uniform in 1 ± width, drawn anew in backward.
#pragma once
#include "engine/autograd.h"
#include "engine/core/random/rng.h"

namespace glia {

// Row t of a micro-batch draws what it draws in the whole batch (RandomKey::first_row); the numbers are those of random_rows().
//     x floating [T, H], 0 <= width < 1 → the accumulation type [T, H]
Var jitter(const Var& x, double width, const RandomKey& key);

}  // namespace glia
