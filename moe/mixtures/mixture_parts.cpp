#include "moe/mixtures/mixture_parts.h"

#include "engine/ops/loss/statistics.h"
#include "engine/ops/moe/choose.h"
#include "engine/ops/ranks/experts_over_ranks.h"

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

namespace {

// An evaluation's ranks are alone, each with all experts.
bool divided(const Experts& experts, Context& context) {
  return experts.up_weight->expert_ranks > 1 && context.communicator().size() > 1;
}

DividedExperts parts_of(const Experts& experts) {
  const std::array<const Parameter*, 4> all = {experts.up_weight, experts.up_bias, experts.down_weight,
                                               experts.down_bias};
  DividedExperts d{{}, {}, all[0]->expert_ranks, all[0]->owned};
  for (size_t i = 0; i < all.size(); ++i) {
    d.weights[i] = all[i]->var;
    if (!all[i]->frozen) d.gradients[i] = experts.set->gradient(*all[i]);
  }
  return d;
}

}  // namespace

Var expert_rows(const Experts& experts, const Var& rows, const Tensor& offsets) {
  if (!divided(experts, rows.context()))
    return expert_ffn(rows, experts.up_weight->var, experts.up_bias->var, experts.down_weight->var,
                      experts.down_bias->var, offsets);
  if (!rows.context().device().is_cpu())
    fail_input(
        "--expert-parallel: expected --device cpu for a router or a loss that reads what experts say, since a GPU's rows do "
        "not come back one by one, got {}",
        rows.context().device().str());
  return expert_ffn_over_ranks(rows, parts_of(experts), offsets);
}

Var run_experts(const Experts& experts, const Var& x, const Choice& choice) {
  const bool over_ranks = divided(experts, x.context());
  if (over_ranks && !x.context().device().is_cpu())
    return expert_layer_over_ranks(x, choice.gates, choice.experts, choice.capacity, parts_of(experts));
  const Dispatch d = dispatch_of(experts, x, choice);
  if (over_ranks) return combine_rows(expert_rows(experts, dispatch_rows(x, d), d.offsets), choice.gates, d);
  return expert_layer(x, choice.gates, d, experts.up_weight->var, experts.up_bias->var, experts.down_weight->var,
                      experts.down_bias->var);
}

namespace {

// What the mixtures are built for. The other routers have a choice, or losses, that no mixture would take notice of.
bool can_be_weighed(const RouterTraits& t) { return !t.stateful && !t.untrained && !t.reads_experts; }

}  // namespace

std::string weighable_routers() {
  std::string names;
  for (const RouterRow& row : router_registry())
    if (row.traits.weighable && can_be_weighed(row.traits))
      names += (names.empty() ? "" : ", ") + std::string(row.name);
  return names;
}

void check_weighable(const MoeConfig& c) {
  const RouterTraits& traits = router_row(c.router).traits;
  if (!traits.weighable || !can_be_weighed(traits))
    fail_input(
        "--mixture {}: expected a router that learns from its scores, keeps no state and has no choice or loss of its own ({}), got {}",
        c.options.get<std::string>(mixture_option()), weighable_routers(), c.router);
}

WeighedMixture::WeighedMixture(ParameterSet& set, const std::string& layer_name, const MoeConfig& c,
                               const BertConfig& bert, int layer, int64_t columns, bool product)
    : losses_(mixture_losses(c)),
      experts_(set, layer_name + ".moe.experts", c.n_experts, bert.hidden, bert.ffn, bert.init_std,
               layer_name + ".ffn", dense_share(c), product),
      second_residual_(c.second_residual),
      layer_(layer) {
  const auto mixture = c.options.get<std::string>(mixture_option());
  // Models of routers that were refused later are read as ever (check_pair).
  if (!can_be_weighed(router_row(c.router).traits)) check_weighable(c);
  if (c.options.contains("update-rule") && std::get<std::string>(c.options.all().at("update-rule")) != "none")
    fail_input("--update-rule: expected --mixture routed, whose tokens have experts of their own, got {}", mixture);
  if (c.expert_ranks > 1)
    fail_input("--expert-parallel: expected --mixture routed, whose tokens have experts of their own, got {}",
               mixture);
  if (any_loss_reads(LossReads::kOutputs, losses_))
    fail_input("--mixture {}: expected no loss on the chosen experts' outputs, since it chooses none", mixture);
  RouterOptions options = router_options(c, bert.hidden, bert.init_std);
  options.n_experts = columns;
  router_ = make_router(c.router, set, layer_name + ".moe.router", options);
  // With some options a router keeps state that its row does not promise; nobody would read or change it here.
  for (const State& state : set.states())
    if (state.name.starts_with(layer_name + ".moe.router."))
      fail_input(
          "--mixture {}: expected a router that learns from its scores and keeps no state ({}), got {} with {}",
          mixture, weighable_routers(), c.router, state.name.substr(state.name.rfind('.') + 1));
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
