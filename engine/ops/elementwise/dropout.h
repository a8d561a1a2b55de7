// Inverted dropout: y = x · keep / (1 − p), keep ~ Bernoulli(1 − p) from Philox at (key, element index in x).
// The mask is drawn again in the gradient, never stored. p = 0 returns x itself.     x any shape, p in [0, 1)
#pragma once
#include "engine/autograd.h"
#include "engine/core/random/rng.h"

namespace glia {

Var dropout(const Var& x, double p, const RandomKey& key);

}  // namespace glia
