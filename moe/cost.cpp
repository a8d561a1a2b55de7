#include "moe/cost.h"

namespace glia {

double expected_experts(const MoeConfig& c) {
  if (c.dense()) return 0;
  const RouterRow& row = router_row(c.router);
  return row.experts_a_token ? row.experts_a_token(router_options(c, 1, 0)) : static_cast<double>(c.top_k);
}

TokenCost token_cost(const ModelConfig& config, double experts, double length) {
  if (config.bag.used()) return {};  // rows of tables, and no products before the head
  ParameterSet set;
  make_bert(set, config);
  FfnCost ffns{1, 1};
  if (!config.moe.dense()) ffns = mixture_row(config.moe).cost(config.moe, experts, length);
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
