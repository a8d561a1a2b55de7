// What may stand in an FFN's place: a row each in mixture.cpp. "routed" sends each token to the experts that a router
// chooses (moe_layer.h); the others take a router's scores and mix by them. To any of them experts may be added that
// every token has (--shared-experts).
#pragma once
#include "moe/router.h"

namespace glia {

struct MoeConfig {
  std::string router = "none";  // a name of the registry; "none": dense
  int64_t n_experts = 8, top_k = 2;
  double balance = 0, energy = 0;  // α, β of docs/science.md 1
  bool second_residual = false;    // the published code's extra residual and norm (docs/science.md 6)
  // The router's own, and those of shared_options(): "mixture", "shared-experts", weights of other losses ("z-loss"), …
  OptionValues options = {};
  int64_t expert_ranks = 1;  // over how many ranks a layer's experts are divided: how it runs, not what it computes

  bool dense() const { return router == "none"; }
};

class Mixture : public FeedForward {
 public:
  // Between the completed gradients and the optimiser's update; see moe/update_rule.h.
  virtual void before_update(ParameterSet&, const StepStatistics&) const {}
  // After the optimiser's update; see Router::after_step.
  virtual void after_step(const StepStatistics&) const {}
  // Of the rows that forward() got; see Router::explain.
  virtual Explanation explain(const Var&, const Pass&) const { return {}; }
};

using MakeMixture = std::unique_ptr<Mixture>(ParameterSet& set, const std::string& layer_name,
                                             const MoeConfig& config, const BertConfig& bert, int layer);

// What a token costs of the layer's experts, in experts: products that it pays, and weights that its output depends on.
struct FfnCost {
  double products, parameters;
};

struct MixtureRow {
  const char* name;
  MakeMixture* make;
  const char* description;
  const char*
      from_dense;  // how it starts from a dense FFN of pretrained weights: what Parameter::dense_name says, in words
  const char* reports;  // what its Routing says
  const char* source;
  // `experts`: that a token is sent to; `length`: of its sequence.
  FfnCost (*cost)(const MoeConfig& config, double experts, double length);
  bool reads_future = false;   // a token's output depends on later ones, whatever the router: not causal
  bool blends_tokens = false;  // experts read no single tokens, so equal experts are not the dense FFN
  std::span<const OptionRow> options = {};
  // What a token has of the experts, in words, where none are chosen for it.
  std::string (*all_experts)(const MoeConfig& config) = nullptr;
};

inline const OptionRow kSharedExperts = {
    "shared-experts", int64_t{0}, "experts that every token has beside the chosen ones, with a gate of 1", 0, 64};
// "mixture": a name of the registry.
const OptionRow& mixture_option();

std::span<const MixtureRow> mixture_registry();
const MixtureRow& mixture_row(const MoeConfig& config);
// Whether a token's gates may sum to something else than 1, or a token may have no expert.
bool routing_varies(const MoeConfig& config);
// Names of the columns outside E that the routings have.
std::vector<std::string> columns_outside(const MoeConfig& config);
// Why a causal model cannot have this mixture with its router, in words that follow "it"; "": it can, and dense can.
std::string why_not_causal(const MoeConfig& config);
// With the shared experts. Errors: an unknown name (the message lists the known ones), an option of another mixture, and
// make_router()'s.
std::unique_ptr<Mixture> make_mixture(ParameterSet& set, const std::string& layer_name, const MoeConfig& config,
                                      const BertConfig& bert, int layer);

// For what somebody asks to be trained, before anything is read: a mixture whose router has a choice or losses that it would
// take no notice of is an error that names both. Models that were trained before it was one are read as they are.
void check_pair(const MoeConfig& config);
// Options of it that change nothing beside the others, each with what it would take, as an error says it.
std::map<std::string, std::string> idle_options(const MoeConfig& config);
// "--balance 5": weights of losses that have no gradient with this router, though they are logged; none: nothing to say.
std::vector<std::string> losses_without_gradient(const MoeConfig& config);

// What config.options may hold whatever the router is: the weights of all losses but those that MoeConfig has members for,
// what changes the experts' updates, and how experts are mixed.
std::vector<OptionRow> shared_options();
// Those behind the router's own.
std::vector<OptionRow> routing_options(std::string_view router);
// For make_router(): config.options without the shared ones.
RouterOptions router_options(const MoeConfig& config, int64_t hidden, double init_std);

}  // namespace glia
