// Layer normalisation (Ba et al. 2016) along the last axis.     x [.., N], gain [N], bias [N] → [.., N]
// y = gain ∘ (x − mean) / √(var + eps) + bias, population variance; statistics in float32 (float64 for float64).
// gain and bias may be float32 where x is bfloat16.
#pragma once
#include "engine/autograd.h"
#include "engine/core/rng.h"

namespace glia {

Var layer_norm(const Var& x, const Var& gain, const Var& bias, double eps);

// y = layer_norm(residual + dropout(x, p, key), …): one pass over memory each way. p = 0 means no dropout.
Var dropout_residual_layer_norm(const Var& x, const Var& residual, const Var& gain, const Var& bias, double eps, double p,
                                const RandomKey& key);
Var dropout_residual_layer_norm_reference(const Var& x, const Var& residual, const Var& gain, const Var& bias, double eps,
                                          double p, const RandomKey& key);

}  // namespace glia
