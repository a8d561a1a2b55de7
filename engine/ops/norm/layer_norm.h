// Layer normalisation (Ba et al. 2016) along the last axis.     x [.., N], gain [N], bias [N] → [.., N]
// y = gain ∘ (x − mean) / √(var + eps) + bias, population variance; statistics in float32 (float64 for float64).
// gain and bias may be float32 where x is bfloat16.
#pragma once
#include "engine/autograd.h"
#include "engine/core/random/rng.h"

namespace glia {

Var layer_norm(const Var& x, const Var& gain, const Var& bias, double eps);

struct LayerNormExtras {
  Var input_bias;       // [N], added to x before the dropout; undefined: none
  double output_p = 0;  // dropout of the result
  RandomKey output_key;
};

// y = dropout(layer_norm(residual + dropout(x + input_bias, p, key), …), output_p, output_key): one pass over
// memory each way. p = 0 means no dropout; an undefined residual, none.
Var dropout_residual_layer_norm(const Var& x, const Var& residual, const Var& gain, const Var& bias, double eps,
                                double p, const RandomKey& key, const LayerNormExtras& extras = {});
Var dropout_residual_layer_norm_reference(const Var& x, const Var& residual, const Var& gain, const Var& bias,
                                          double eps, double p, const RandomKey& key,
                                          const LayerNormExtras& extras = {});

}  // namespace glia
