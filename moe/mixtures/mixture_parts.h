// What mixtures are put together from: a router of the table, its losses, and experts that run on rows.
#pragma once
#include "moe/losses/losses.h"
#include "moe/mixture.h"

namespace glia {

// The weights of the configuration's losses.
OptionValues mixture_losses(const MoeConfig& config);

// By how much the experts' last layers are scaled where they start from a dense FFN: with N experts that every token has
// beside the chosen ones, N + 1 copies of it are added up.
double dense_share(const MoeConfig& config);

// Who goes to which expert of these rows, with what weight.
struct Choice {
  Var gates;             // [rows, S]
  Tensor experts;        // int32 [rows, S]
  int64_t capacity = 0;  // as in Routing
};
// Of the rows that the pass reads.     of all rows → [R, S]
Choice read_rows(const Choice& choice, const Pass& pass);
Dispatch dispatch_of(const Experts& experts, const Var& x, const Choice& choice);
// expert_ffn() of rows that are grouped by expert, by this rank or, where the experts are divided and others are there, by all.
Var expert_rows(const Experts& experts, const Var& rows, const Tensor& offsets);
// Σ_k gates_k Expert_k(x) of each row.     x [rows, H] → [rows, H]
Var run_experts(const Experts& experts, const Var& x, const Choice& choice);

// The mixture that stands beside the experts which every token has; the layer itself where there are none.
const FeedForward& without_shared(const FeedForward& layer);

// The start of mixtures whose experts nobody is sent to one by one: each weighs all of them by a router's scores.
class WeighedMixture : public Mixture {
 public:
  // `columns`: how many scores the router gives.
  WeighedMixture(ParameterSet& set, const std::string& layer_name, const MoeConfig& config, const BertConfig& bert,
                 int layer, int64_t columns, bool product);

  bool reads_all_rows() const override { return true; }
  bool second_residual() const override { return second_residual_; }

 protected:
  RoutingInputs inputs(const Var& x, const Pass& pass) const { return {x, pass, layer_, &experts_}; }
  // What is reported: every expert, weighed by its share of the token, and losses on that.     weights, scores [T, E],
  // matrix [E, H] or undefined
  Routing report(const Var& weights, Var scores, const Var& matrix, const RoutingInputs& in) const;

  std::unique_ptr<Router> router_;
  OptionValues losses_;  // weights
  Experts experts_;
  bool second_residual_;
  int layer_;
};

// Names of the routers that mixtures which choose no experts may have.
std::string weighable_routers();
// An error where the router cannot be weighed by its scores alone, by a mixture that does; it names those that can.
void check_weighable(const MoeConfig& config);

// The mixtures of the table but "routed".
MakeMixture make_soft, make_merged;
std::span<const OptionRow> soft_options();

}  // namespace glia
