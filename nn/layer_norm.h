// Layer normalisation with its weights, gain [H] = 1 and bias [H] = 0.     x [.., H] → [.., H]
#pragma once
#include "engine/ops/elementwise/dropout.h"
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/norm/layer_norm.h"
#include "engine/ops/rows/bias.h"
#include "nn/parameters.h"

namespace glia {

struct LayerNorm {
  Parameter *gain, *bias;
  double eps;

  LayerNorm(ParameterSet& set, const std::string& name, int64_t size, double eps)
      : gain(set.add(name + ".weight", {size}, Init::one(), false)),
        bias(set.add(name + ".bias", {size}, Init::zero(), false)),
        eps(eps) {}

  Var operator()(const Var& x) const { return layer_norm(x, gain->var, bias->var, eps); }
  // layer_norm(residual + dropout(x + input_bias)), one pass over memory; input_bias [H] or undefined.
  Var residual(const Var& x, const Var& residual, double dropout, const RandomKey& key,
               const Var& input_bias = {}) const {
    return dropout_residual_layer_norm(x, residual, gain->var, bias->var, eps, dropout, key, {input_bias, 0, {}});
  }
  // dropout(layer_norm(x)), likewise.
  Var dropped(const Var& x, double dropout, const RandomKey& key) const {
    return dropout_residual_layer_norm(x, {}, gain->var, bias->var, eps, 0, {}, {{}, dropout, key});
  }
};

// What a branch of a pre-norm layer adds to what it came from: x + dropout(branch + bias).     bias [H] or undefined
inline Var add_branch(const Var& branch, const Var& bias, const Var& x, double p, const RandomKey& key) {
  return add(x, dropout(bias.defined() ? bias_add(branch, bias) : branch, p, key));
}

}  // namespace glia
