#include <algorithm>

#include "moe/router.h"

namespace glia {

// Each in the router's own file.
RouterRow softmax_row(), astrocyte_row(), astrocyte_hierarchical_row(), astrocyte_meanpool_row(), loss_free_row(),
    top_p_row(), switch_row(), noisy_top_k_row(), scored_row(), deepseek_v3_row(), x_moe_row(), remoe_row(),
    hash_row(), frozen_random_row(), expert_choice_row(), emo_row(), glider_row(), sinkhorn_row(), quantile_row(),
    expert_threshold_row(), dselect_k_row(), context_row(), cosine_row(), null_experts_row(), moe_plus_plus_row(),
    autonomy_row(), ada_k_row(), thor_row(), every_row(), pmoe_row();

std::span<const RouterRow> router_registry() {
  static const RouterRow rows[] = {softmax_row(),
                                   astrocyte_row(),
                                   astrocyte_hierarchical_row(),
                                   astrocyte_meanpool_row(),
                                   loss_free_row(),
                                   top_p_row(),
                                   switch_row(),
                                   noisy_top_k_row(),
                                   scored_row(),
                                   deepseek_v3_row(),
                                   x_moe_row(),
                                   remoe_row(),
                                   hash_row(),
                                   frozen_random_row(),
                                   expert_choice_row(),
                                   emo_row(),
                                   glider_row(),
                                   sinkhorn_row(),
                                   quantile_row(),
                                   expert_threshold_row(),
                                   dselect_k_row(),
                                   context_row(),
                                   cosine_row(),
                                   null_experts_row(),
                                   moe_plus_plus_row(),
                                   autonomy_row(),
                                   ada_k_row(),
                                   thor_row(),
                                   every_row(),
                                   pmoe_row()};
  return rows;
}

namespace {

std::string option_names(const RouterRow& row) {
  std::string names;
  for (const OptionRow& o : row.options) names += (names.empty() ? "--" : ", --") + std::string(o.name);
  return names.empty() ? "no options of its own" : names;
}

void check_own_options(const RouterRow& row, const OptionValues& own) {
  for (const auto& [name, value] : own.all()) {
    const auto found = std::find_if(row.options.begin(), row.options.end(),
                                    [key = std::string_view(name)](const OptionRow& o) { return key == o.name; });
    if (found == row.options.end())
      fail_input("router {}: has no option --{}; it has {}", row.name, name, option_names(row));
    check_option(*found, value);
  }
}

}  // namespace

const RouterRow& router_row(std::string_view router) {
  std::string known;
  for (const RouterRow& row : router_registry()) {
    known += (known.empty() ? "" : ", ") + std::string(row.name);
    if (router == row.name) return row;
  }
  fail_input("router: expected one of {}; got '{}'", known, router);
}

std::string why_not_causal(const RouterRow& row, const OptionValues& own) {
  if (row.traits.reads_future) return "chooses a token's experts by later ones";
  if (const char* why = row.future ? row.future(own) : nullptr) return why;
  if (row.traits.trains_on_batch) return "chooses a token's experts in training by the batch's other tokens";
  return "";
}

std::unique_ptr<Router> make_router(std::string_view router, ParameterSet& set, const std::string& name,
                                    const RouterOptions& o) {
  const RouterRow& row = router_row(router);
  if (o.top_k < 1 || o.top_k > o.n_experts)
    fail_input("router {}: expected 1 <= top_k <= experts, got top_k {} and {} experts", router, o.top_k,
               o.n_experts);
  check_own_options(row, o.own);
  // One expert alone is no choice, but for a router with columns beside it.
  if (o.top_k == 1 && (o.n_experts > 1 || !row.columns.empty()) && refuses_one_expert(row.traits))
    fail_input(
        "router {}: with top_k 1 its renormalised gate is always 1, so the router gets no gradient; use top_k >= 2 "
        "or a router that does not renormalise",
        router);
  return row.make(set, name, o);
}

}  // namespace glia
