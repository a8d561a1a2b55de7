// y = x wᵀ + b.     x [.., I] → [.., O] in x's dtype; weight [O, I] ~ N(0, std²), bias [O] = 0
#pragma once
#include "engine/ops/products/matmul.h"
#include "nn/parameters.h"

namespace glia {

struct Linear {
  Parameter *weight, *bias;

  // `product`: the weight only ever meets activations in the compute dtype (ParameterSet::add).
  Linear(ParameterSet& set, const std::string& name, int64_t in, int64_t out, double std, bool product = false)
      : weight(set.add(name + ".weight", {out, in}, Init::normal(std), true, product)),
        bias(set.add(name + ".bias", {out}, Init::zero(), false)) {}

  Var operator()(const Var& x) const { return linear(x, weight->var, bias->var); }
};

}  // namespace glia
