#include "moe/moe_layer.h"

#include "engine/ops/loss/statistics.h"
#include "moe/losses.h"

namespace glia {
namespace {

OptionValues layer_losses(const MoeConfig& c) {
  OptionValues given = c.options;
  given.set("balance", c.balance);
  given.set("energy", c.energy);
  return loss_weights(router_row(c.router), given);
}

}  // namespace

MoeLayer::MoeLayer(ParameterSet& set, const std::string& layer_name, const MoeConfig& c, const BertConfig& bert,
                   int layer)
    : router_(
          make_router(c.router, set, layer_name + ".moe.router", router_options(c, bert.hidden, bert.init_std))),
      losses_(layer_losses(c)),
      experts_(set, layer_name + ".moe.experts", c.n_experts, bert.hidden, bert.ffn, bert.init_std,
               layer_name + ".ffn"),
      rule_(make_update_rule(set, layer_name, experts_, c.options)),
      second_residual_(c.second_residual),
      layer_(layer) {}

FeedForward::Result MoeLayer::forward(const Var& input, const Pass& pass, bool read_rows_only) const {
  Result r;
  r.routing = router_->route(inputs(input, pass));
  attach_losses(r.routing, losses_, pass.sequences);
  if (rule_ && pass.training)
    for (Statistic& s : rule_->observe(input, r.routing)) r.routing.statistics.push_back(std::move(s));
  r.x = input;
  Var gates = r.routing.gates;        // [rows, S]
  Tensor chosen = r.routing.experts;  // [rows, S]
  int64_t capacity = r.routing.capacity;
  if (read_rows_only) {
    r.x = pass.read_rows(r.x);
    gates = pass.read_rows(gates);
    chosen = gather_index_rows(chosen, pass.read_index());
    capacity = std::min(capacity, chosen.numel());
  }
  const Dispatch d =
      make_dispatch(chosen, experts_.count, expert_alignment(input.context(), input.dtype()), capacity);
  r.y = expert_layer(r.x, gates, d, experts_.up_weight->var, experts_.up_bias->var, experts_.down_weight->var,
                     experts_.down_bias->var);
  return r;
}

MoeLayer::Pairs MoeLayer::pairs(const Var& x, const Routing& routing) const {
  Pairs p;
  p.dispatch =
      make_dispatch(routing.experts, experts_.count, expert_alignment(x.context(), x.dtype()), routing.capacity);
  p.outputs = expert_ffn(dispatch_rows(x, p.dispatch), experts_.up_weight->var, experts_.up_bias->var,
                         experts_.down_weight->var, experts_.down_bias->var, p.dispatch.offsets);
  return p;
}

}  // namespace glia
