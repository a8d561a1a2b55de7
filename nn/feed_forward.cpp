#include "nn/feed_forward.h"

#include "engine/ops/products/feed_forward.h"

namespace glia {

DenseFeedForward::DenseFeedForward(ParameterSet& set, const std::string& name, const BertConfig& c)
    : up(set, name + ".up", c.hidden, c.ffn, c.init_std, true),
      down(set, name + ".down", c.ffn, c.hidden, c.init_std, true) {}

FeedForward::Result DenseFeedForward::forward(const Var& x, const Pass&, bool) const {
  return {feed_forward(x, up.weight->var, up.bias->var, down.weight->var, {}), down.bias->var, x, {}};
}

}  // namespace glia
