#include "moe/cost.h"

namespace glia {

double expected_experts(const MoeConfig& c) {
  if (c.dense()) return 0;
  const RouterRow& row = router_row(c.router);
  if (row.experts_a_token) return row.experts_a_token(router_options(c, 1, 0));
  return static_cast<double>(row.traits.learned_k ? c.n_experts : c.top_k);
}

std::string experts_in_words(const MoeConfig& c) {
  if (c.dense()) return "";
  if (const MixtureRow& mixture = mixture_row(c); mixture.all_experts) return mixture.all_experts(c);
  const RouterTraits& traits = router_row(c.router).traits;
  const double experts = expected_experts(c);
  const std::string count = fmt::format("{:.3g} expert{}", experts, experts == 1 ? "" : "s");
  if (traits.learned_k) return fmt::format("up to {}, the cost is of {:.3g}", count, experts);
  if (!traits.fixed_k) return count + " on the mean";
  if (!traits.reads_experts) return count;
  if (traits.needs_labels) return fmt::format("{}, in training all {}", count, c.n_experts);
  return fmt::format("{}, and the first products of all {}", count, c.n_experts);
}

namespace {

// A router that reads the experts passes each token through all their first products, half of an FFN each, to know where it
// goes; one that reads them by labels does so in training alone.
double products_of_choice(const MoeConfig& c) {
  const RouterTraits& traits = router_row(c.router).traits;
  return traits.reads_experts && !traits.needs_labels ? 0.5 * static_cast<double>(c.n_experts) : 0;
}

}  // namespace

TokenCost token_cost(const ModelConfig& config, double experts, double length) {
  if (config.bag.used()) return {};  // rows of tables, and no products before the head
  ParameterSet set;
  make_bert(set, config);
  FfnCost ffns{1, 1};
  if (!config.moe.dense()) {
    ffns = mixture_row(config.moe).cost(config.moe, experts, length);
    const double first = products_of_choice(config.moe);
    ffns.products += first;
    // Its experts' first weights are met in any case.
    if (first > 0) ffns.parameters += 0.5 * (static_cast<double>(config.moe.n_experts) - experts);
  }
  TokenCost cost;
  for (const Parameter& p : set.all()) {
    if (p.name.starts_with("embeddings.") && p.shape.rank() == 2) continue;  // one row of it is read
    auto size = static_cast<double>(p.shape.numel());
    const bool product = p.shape.rank() >= 2 && p.shape.numel() > 1;
    double products = size;
    if (p.name.find(".moe.experts.") != std::string::npos) {
      size /= static_cast<double>(config.moe.n_experts);
      products = size * ffns.products, size *= ffns.parameters;
    }
    cost.parameters += size;
    // Expert biases are matrices [E, F] too, and no products.
    if (product && !p.name.ends_with(".bias")) cost.flops += 2 * products;
  }
  return cost;
}

}  // namespace glia
