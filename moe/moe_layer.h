// A mixture of experts in the FFN's place: y_s = Σ_k g_sk Expert_{e_sk}(x_s). Dropless and deterministic: rows are
// grouped by expert in a stable order and each token gathers its results.
#pragma once
#include "engine/ops/moe/moe.h"
#include "moe/losses/losses.h"
#include "moe/mixture.h"
#include "moe/update_rule.h"

namespace glia {

class MoeLayer : public Mixture {
 public:
  // Parameters "<layer_name>.moe.router.…" and "<layer_name>.moe.experts.…".
  MoeLayer(ParameterSet& set, const std::string& layer_name, const MoeConfig& config, const BertConfig& bert,
           int layer);

  bool reads_all_rows() const override { return true; }
  bool second_residual() const override { return second_residual_; }
  // With read_rows_only all rows are routed and enter the losses, but only the rows that are read pass through experts.
  Result forward(const Var& x, const Pass& pass, bool read_rows_only) const override;
  void before_update(ParameterSet& set, const StepStatistics& statistics) const override {
    if (rule_) rule_->before_update(set, statistics);
  }
  void after_step(const StepStatistics& statistics) const override {
    router_->after_step(statistics);
    if (counted_) counted_->value.zero();
  }
  Explanation explain(const Var& x, const Pass& pass) const override { return router_->explain(inputs(x, pass)); }

  // combine_rows(outputs, gates, dispatch) of these is the layer's y.
  ExpertPairs pairs(const Var& x, const Routing& routing) const;

  const Router& router() const { return *router_; }
  const Experts& experts() const { return experts_; }

 private:
  RoutingInputs inputs(const Var& x, const Pass& pass) const {
    return {x, pass, layer_, &experts_, counted_ ? counted_->value : Tensor()};
  }

  std::unique_ptr<Router> router_;
  OptionValues losses_;  // weights
  Experts experts_;
  std::unique_ptr<UpdateRule> rule_;  // or nullptr
  State* counted_ = nullptr;          // RoutingInputs::counted, where a loss wants it
  bool second_residual_;
  int layer_;
};

}  // namespace glia
