// E two-layer FFNs in four tensors.     up [E, F, H], [E, F]; down [E, H, F], [E, H]
#pragma once
#include "nn/parameters.h"

namespace glia {

struct Experts {
  Parameter *up_weight, *up_bias, *down_weight, *down_bias;
  int64_t count;
  const ParameterSet* set;

  // `dense`: the FFN whose pretrained weights they start from, "encoder.layer.0.ffn"; `share`: of its output that each
  // then gives; `product` as in ParameterSet::add.
  Experts(ParameterSet& set, const std::string& name, int64_t count, int64_t hidden, int64_t ffn, double std,
          const std::string& dense = "", double share = 1, bool product = true)
      : up_weight(set.add(name + ".up.weight", {count, ffn, hidden}, Init::normal(std), true, product)),
        up_bias(set.add(name + ".up.bias", {count, ffn}, Init::zero(), false)),
        down_weight(set.add(name + ".down.weight", {count, hidden, ffn}, Init::normal(std), true, product)),
        down_bias(set.add(name + ".down.bias", {count, hidden}, Init::zero(), false)),
        count(count),
        set(&set) {
    for (Parameter* p : {up_weight, up_bias, down_weight, down_bias}) {
      p->expert_axis = 0;
      if (!dense.empty()) p->dense_name = dense + p->name.substr(name.size());
    }
    down_weight->dense_factor = down_bias->dense_factor = share;
  }
  // Each of so many ranks computes count / ranks of them. `owned`: and nothing else reads their weights.
  void divide(int ranks, bool owned) {
    for (Parameter* p : {up_weight, up_bias, down_weight, down_bias}) p->expert_ranks = ranks, p->owned = owned;
  }
};

}  // namespace glia
