#include "moe/mixtures/mixture_parts.h"

#include "engine/ops/loss/statistics.h"
#include "engine/ops/moe/choose.h"

namespace glia {

OptionValues mixture_losses(const MoeConfig& c) {
  OptionValues given = c.options;
  given.set("balance", c.balance);
  given.set("energy", c.energy);
  return loss_weights(router_row(c.router), given);
}

double dense_share(const MoeConfig& c) {
  return 1.0 / static_cast<double>(1 + c.options.get<int64_t>(kSharedExperts));
}

Choice read_rows(const Choice& choice, const Pass& pass) {
  Choice read{pass.read_rows(choice.gates), gather_index_rows(choice.experts, pass.read_index())};
  read.capacity = std::min(choice.capacity, read.experts.numel());
  return read;
}

Dispatch dispatch_of(const Experts& experts, const Var& x, const Choice& choice) {
  return make_dispatch(choice.experts, experts.count, expert_alignment(x.context(), x.dtype()), choice.capacity);
}

Var run_experts(const Experts& experts, const Var& x, const Choice& choice) {
  return expert_layer(x, choice.gates, dispatch_of(experts, x, choice), experts.up_weight->var,
                      experts.up_bias->var, experts.down_weight->var, experts.down_bias->var);
}

WeighedMixture::WeighedMixture(ParameterSet& set, const std::string& layer_name, const MoeConfig& c,
                               const BertConfig& bert, int layer, int64_t columns, bool product)
    : losses_(mixture_losses(c)),
      experts_(set, layer_name + ".moe.experts", c.n_experts, bert.hidden, bert.ffn, bert.init_std,
               layer_name + ".ffn", dense_share(c), product),
      second_residual_(c.second_residual),
      layer_(layer) {
  const RouterRow& row = router_row(c.router);
  const auto mixture = c.options.get<std::string>(mixture_option());
  if (row.traits.stateful || row.traits.untrained || row.traits.reads_experts)
    fail_input("--mixture {}: expected a router that learns from its scores and keeps no state, got {}", mixture,
               c.router);
  if (c.options.contains("update-rule") && std::get<std::string>(c.options.all().at("update-rule")) != "none")
    fail_input("--update-rule: expected --mixture routed, whose tokens have experts of their own, got {}", mixture);
  if (any_loss_reads(LossReads::kOutputs, losses_))
    fail_input("--mixture {}: expected no loss on the chosen experts' outputs, since it chooses none", mixture);
  RouterOptions options = router_options(c, bert.hidden, bert.init_std);
  options.n_experts = columns;
  router_ = make_router(c.router, set, layer_name + ".moe.router", options);
}

Routing WeighedMixture::report(const Var& weights, Var scores, const Var& matrix, const RoutingInputs& in) const {
  Routing r;
  r.n_experts = r.chosen = experts_.count;
  Gates all = choose(weights, {}, experts_.count, in.pass.sequences);
  r.gates = std::move(all.gates);
  r.experts = std::move(all.experts);
  r.scores = std::move(scores);
  r.matrix = matrix;
  attach_losses(r, losses_, in);
  return r;
}

}  // namespace glia
