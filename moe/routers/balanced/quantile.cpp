// Quantile balancing: a price of each expert, so that at these prices every expert is wanted by its share of the tokens.
// The prices are those of the step before; only the choice reads them.
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/norm/normalise_rows.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/routing/keep.h"
#include "engine/ops/rows/bias.h"
#include "engine/ops/rows/reduce.h"
#include "engine/ops/rows/topk.h"
#include "moe/routers/parts.h"

namespace glia {
namespace {

class QuantileRouter : public Router {
 public:
  QuantileRouter(ParameterSet& set, const std::string& name, const RouterOptions& o)
      : options_(o),
        token_(router_linear(set, name + ".token", o)),
        price_(set.add_state(name + ".price", {o.n_experts}, Init::zero())) {}

  Routing route(const RoutingInputs& in) const override {
    const Sequences& sequences = in.pass.sequences;
    Var scores = linear_scores(in, token_);
    const Tensor net = bias_add(scores.value(), scale(price_->value, -1).value()).value();
    // Weighed as ever: the softmax over the chosen logits, without prices.
    Gates gates = choose_among(exp(sub(scores, row_largest(scores.value()))), net, options_.top_k, sequences);
    gates.gates = share_rows(gates.gates);
    Routing r = routing_of(std::move(scores), std::move(gates), options_.top_k);
    r.matrix = token_.weight->var;
    if (in.pass.training && options_.top_k < options_.n_experts)
      r.statistics.push_back({"price", prices(r.scores.value(), net, sequences), StatisticReduction::kMean});
    return r;
  }
  void after_step(const StepStatistics& step) const override {
    if (options_.top_k == options_.n_experts) return;  // everybody has everybody: nothing to balance
    const Tensor q = step["price"].reshape({1, options_.n_experts});
    price_->value.copy_from(sub(q, over_columns(mean(q, 1), options_.n_experts)).value().reshape(price_->shape));
  }

 private:
  static Var over_columns(const Var& v, int64_t n) {  // [T] → [T, n]
    return matmul(reshape(v, {v.value().numel(), 1}), full(v.context(), {1, n}, 1.0, v.dtype()));
  }
  static Tensor row_largest(const Tensor& l) { return over_columns(max(l, 1), l.size(1)).value(); }

  // α_t: what the token's (K + 1)-th best expert is worth to it at today's prices; β_e: the price at which T K / E tokens,
  // rounded down, want e more than that.
  Tensor prices(const Tensor& l, const Tensor& net, const Sequences& sequences) const {
    const int64_t n = options_.n_experts, k = options_.top_k;
    const Var best = top_k(net, k + 1).values;
    const Var alpha = scale(max(scale(best, -1), 1), -1);  // the smallest of them
    const Tensor surplus = sub(l, over_columns(alpha, n)).value();
    return column_rank(surplus, static_cast<double>(k) / static_cast<double>(n), 1, sequences);
  }

  RouterOptions options_;
  Linear token_;
  State* price_;  // β [E]
};

OracleRouting oracle_of(const OracleInputs& in) {
  const auto l = oracle_linear(in.x, in.weight("token.weight"), in.weight("token.bias"));
  const std::vector<double> price = in.weight("price");
  std::vector<double> net = l;
  for (size_t i = 0; i < net.size(); ++i) net[i] -= price[i % price.size()];
  return oracle::choose(in, l, net, oracle::map(l, [](double v) { return std::exp(v); }), true);
}

}  // namespace

RouterRow quantile_row() {
  return {
      "quantile",
      [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
        return std::make_unique<QuantileRouter>(set, name, o);
      },
      "the K largest l_e − β_e, softmax over the chosen l; after a step α_t = (K+1)-th largest of l_t − β, β_e = "
      "(⌊T K / E⌋ + 1)-th largest of l_e − α, less its mean",
      "Megatron-LM's quantile balancing (docs/science.md 7); there T K must be divisible by E, here it is rounded down",
      {.stateful = true},
      {},
      {},
      oracle_of};
}

}  // namespace glia
