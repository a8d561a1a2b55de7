#include "moe/moe_layer.h"

#include "engine/ops/elementwise/elementwise.h"
#include "moe/mixtures/mixture_parts.h"

namespace glia {

MoeLayer::MoeLayer(ParameterSet& set, const std::string& layer_name, const MoeConfig& c, const BertConfig& bert,
                   int layer)
    : router_(
          make_router(c.router, set, layer_name + ".moe.router", router_options(c, bert.hidden, bert.init_std))),
      losses_(mixture_losses(c)),
      experts_(set, layer_name + ".moe.experts", c.n_experts, bert.hidden, bert.ffn, bert.init_std,
               layer_name + ".ffn", dense_share(c)),
      rule_(make_update_rule(set, layer_name, experts_, c.options)),
      second_residual_(c.second_residual),
      layer_(layer) {
  if (c.n_experts % c.expert_ranks != 0)
    fail_input("--expert-parallel: expected a divisor of {} experts, got {}", c.n_experts, c.expert_ranks);
  const bool read =
      rule_ || router_row(c.router).traits.reads_experts || any_loss_reads(LossReads::kExperts, losses_);
  experts_.divide(static_cast<int>(c.expert_ranks), !read);
  if (any_loss_reads(LossReads::kCounted, losses_))
    counted_ = set.add_state(layer_name + ".moe.counted", {c.n_experts + 1}, Init::zero());
}

FeedForward::Result MoeLayer::forward(const Var& input, const Pass& pass, bool read_rows_only) const {
  Result r;
  r.routing = router_->route(inputs(input, pass));
  const bool compared = any_loss_reads(LossReads::kOutputs, losses_);
  ExpertPairs said;
  if (compared) said = pairs(input, r.routing);
  attach_losses(r.routing, losses_, inputs(input, pass), compared ? &said : nullptr);
  if (rule_ && pass.training)
    for (Statistic& s : rule_->observe(input, r.routing)) r.routing.statistics.push_back(std::move(s));
  r.x = read_rows_only ? pass.read_rows(input) : input;
  Choice choice{r.routing.gates, r.routing.experts, r.routing.capacity};
  if (read_rows_only) choice = read_rows(choice, pass);
  if (!compared) {
    r.y = run_experts(experts_, r.x, choice);
  } else {  // of all rows, since the losses read them
    const Var y = combine_rows(said.outputs, r.routing.gates, said.dispatch);
    r.y = read_rows_only ? pass.read_rows(y) : y;
  }
  if (const Var& beside = r.routing.beside; beside.defined())
    r.y = add(r.y, read_rows_only ? pass.read_rows(beside) : beside);
  return r;
}

ExpertPairs MoeLayer::pairs(const Var& x, const Routing& routing) const {
  ExpertPairs p;
  p.dispatch = dispatch_of(experts_, x, {routing.gates, routing.experts, routing.capacity});
  p.outputs = expert_rows(experts_, dispatch_rows(x, p.dispatch), p.dispatch.offsets);
  return p;
}

}  // namespace glia
