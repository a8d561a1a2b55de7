// Expert threshold: an expert takes every token whose logit reaches its own threshold, a moving quantile of what it was
// offered. Causal, balanced on the mean over time, without a loss.
#include <cmath>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/routing/keep.h"
#include "moe/routers/parts.h"

namespace glia {
namespace {

const OptionRow
    kMemory = {"threshold-memory", 0.99, "what stays of the moving quantile after a step", 0, 0.999999},
    kWarm = {
        "threshold-warmup", int64_t{4000},
        "steps in which an expert takes the batch's best instead, T K / E of them: a run of fewer steps is trained so "
        "throughout, and its thresholds act in evaluation alone",
        0, 1e9};

std::span<const OptionRow> options() {
  static const OptionRow rows[] = {kMemory, kWarm};
  return rows;
}

class ExpertThresholdRouter : public Router {
 public:
  ExpertThresholdRouter(ParameterSet& set, const std::string& name, const RouterOptions& o)
      : options_(o),
        memory_(o.own.get<double>(kMemory)),
        token_(router_linear(set, name + ".token", o)),
        threshold_(set.add_state(name + ".threshold", {o.n_experts}, Init::zero())),
        steps_(set.add_state(name + ".steps", {1}, Init::zero())) {}

  Routing route(const RoutingInputs& in) const override {
    const Sequences& sequences = in.pass.sequences;
    Var scores = linear_scores(in, token_);
    Tensor bound = threshold_->value, best;
    if (in.pass.training) {
      const double share = static_cast<double>(options_.top_k) / static_cast<double>(options_.n_experts);
      best = column_rank(scores.value(), share, 0, sequences);
      const Tensor warm = spread(warming());
      bound = add(mul(warm, best), mul(add_scalar(scale(warm, -1), 1), bound)).value();
    }
    Gates gates =
        choose_among(sigmoid(scores), keep_at_least(scores.value(), bound), options_.n_experts, sequences);
    Routing r = routing_of(std::move(scores), std::move(gates), 0);
    r.matrix = token_.weight->var;
    if (best.defined()) r.statistics.push_back({"best", best, StatisticReduction::kMean});
    return r;
  }
  void after_step(const StepStatistics& step) const override {
    // The moving mean, corrected for its start at 0, moves by (1 − memory) / (1 − memoryⁿ) of the way in step n.
    steps_->value.copy_from(add_scalar(steps_->value, 1).value());
    const Var power = exp(scale(steps_->value, std::log(std::max(memory_, 1e-30))));
    const Var way = div(full(power.context(), {1}, 1 - memory_, power.dtype()), add_scalar(scale(power, -1), 1));
    const Var to = sub(step["best"], threshold_->value);
    threshold_->value.copy_from(add(threshold_->value, mul(to, spread(way.value()))).value());
  }

 private:
  // 1 in the first steps, then 0: a clipped ramp of whole numbers.     → [1]
  Tensor warming() const {
    const auto warm = static_cast<double>(options_.own.get<int64_t>(kWarm));
    const Var left = add_scalar(scale(steps_->value, -1), warm);
    return sub(relu(left), relu(add_scalar(left, -1))).value();
  }
  Tensor spread(const Tensor& one) const {  // [1] → [E]
    const Tensor ones = full(one.context(), {1, options_.n_experts}, 1.0, one.dtype());
    return matmul(one.reshape({1, 1}), ones).value().reshape({options_.n_experts});
  }

  RouterOptions options_;
  double memory_;
  Linear token_;
  State *threshold_, *steps_;  // c [E], n [1]
};

OracleRouting oracle_of(const OracleInputs& in) {
  const auto l = oracle_linear(in.x, in.weight("token.weight"), in.weight("token.bias"));
  const std::vector<double> c = in.weight("threshold");
  std::vector<double> choice = l;
  for (size_t i = 0; i < choice.size(); ++i)
    if (choice[i] < c[i % c.size()]) choice[i] = -INFINITY;
  return oracle::choose_finite(in, l, choice, oracle::map(l, [](double v) { return 1 / (1 + std::exp(-v)); }));
}

}  // namespace

RouterRow expert_threshold_row() {
  return {
      "expert-threshold",
      [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
        return std::make_unique<ExpertThresholdRouter>(set, name, o);
      },
      "every expert with l_e >= c_e, weighed by sigmoid(l_e); c_e: moving mean of the batch's (T K / E)-th largest l_e; in "
      "the first steps that of the batch itself, which reads later tokens",
      "arXiv 2603.11535",
      {.gates_sum_to_one = false, .fixed_k = false, .trains_on_batch = true, .stateful = true},
      options(),
      {},
      oracle_of};
}

}  // namespace glia
