#include "moe/mixture.h"

#include <algorithm>

#include "moe/losses.h"
#include "moe/moe_layer.h"
#include "moe/update_rule.h"

namespace glia {
namespace {

constexpr MixtureRow kMixtures[] = {
    {"routed",
     [](ParameterSet& set, const std::string& layer_name, const MoeConfig& config, const BertConfig& bert,
        int layer) -> std::unique_ptr<Mixture> {
       return std::make_unique<MoeLayer>(set, layer_name, config, bert, layer);
     },
     "y = Σ_k g_k Expert_k(x) over the experts that the router chose",
     "every expert is a copy of the FFN, plus noise", "the router's pairs and gates"},
};

}  // namespace

std::span<const MixtureRow> mixture_registry() { return kMixtures; }

std::unique_ptr<Mixture> make_mixture(ParameterSet& set, const std::string& layer_name, const MoeConfig& config,
                                      const BertConfig& bert, int layer) {
  std::string known;
  for (const MixtureRow& row : kMixtures) {
    if (config.mixture == row.name) return row.make(set, layer_name, config, bert, layer);
    known += (known.empty() ? "" : ", ") + std::string(row.name);
  }
  fail_input("mixture: expected one of {}; got '{}'", known, config.mixture);
}

std::vector<OptionRow> shared_options() {
  std::vector<OptionRow> all = further_loss_weights();
  for (const OptionRow& option : update_rule_options()) all.push_back(option);
  return all;
}

std::vector<OptionRow> routing_options(std::string_view router) {
  const RouterRow& row = router_row(router);
  std::vector<OptionRow> all(row.options.begin(), row.options.end());
  for (const OptionRow& weight : further_loss_weights(row)) all.push_back(weight);
  for (const OptionRow& option : update_rule_options()) all.push_back(option);
  return all;
}

RouterOptions router_options(const MoeConfig& config, int64_t hidden, double init_std) {
  const std::vector<OptionRow> shared = shared_options();
  RouterOptions o{hidden, config.n_experts, config.top_k, init_std, {}};
  for (const auto& [name, value] : config.options.all())
    if (std::none_of(shared.begin(), shared.end(), [&](const OptionRow& row) { return name == row.name; }))
      o.own.set(name, value);
  return o;
}

}  // namespace glia
