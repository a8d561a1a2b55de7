#include "moe/moe_layer.h"

#include "engine/ops/loss/statistics.h"
#include "engine/ops/moe/moe.h"

namespace glia {

MoeLayer::MoeLayer(ParameterSet& set, const std::string& layer_name, const MoeConfig& c, const BertConfig& bert,
                   int layer)
    : router_(
          make_router(c.router, set, layer_name + ".moe.router",
                      {bert.hidden, c.n_experts, c.top_k, c.balance, c.energy, c.z_loss, bert.init_std, layer})),
      experts_(set, layer_name + ".moe.experts", c.n_experts, bert.hidden, bert.ffn, bert.init_std),
      second_residual_(c.second_residual) {}

FeedForward::Result MoeLayer::forward(const Var& input, const Pass& pass, bool read_rows_only) const {
  Result r;
  r.routing = router_->route(input, pass);
  r.x = input;
  Var gates = r.routing.gates;        // [rows, K]
  Tensor chosen = r.routing.experts;  // [rows, K]
  if (read_rows_only) {
    r.x = pass.read_rows(r.x);
    gates = pass.read_rows(gates);
    chosen = gather_index_rows(chosen, pass.read_index());
  }
  const Dispatch d = make_dispatch(chosen, experts_.count, expert_alignment(input.context(), input.dtype()));
  r.y = expert_layer(r.x, gates, d, experts_.up_weight->var, experts_.up_bias->var, experts_.down_weight->var,
                     experts_.down_bias->var);
  return r;
}

}  // namespace glia
