// ReMoE (Wang et al. 2024): every expert whose logit is positive, weighed by it. A loss whose weight is steered keeps K of
// E active on the mean.
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/ranks/sum_over_ranks.h"
#include "engine/ops/routing/sparsity_weight.h"
#include "engine/ops/rows/reduce.h"
#include "moe/routers/parts.h"

namespace glia {
namespace {

const OptionRow kStart = {"sparsity-weight", 1e-8, "λ at the start of the loss that keeps experts off", 0, 1e9},
                kFactor = {"sparsity-factor", 1.2, "λ is multiplied by this, or divided, after each step", 1, 1e3};

std::span<const OptionRow> options() {
  static const OptionRow rows[] = {kStart, kFactor};
  return rows;
}

constexpr const char* kGrowth = "moe.remoe.growth";

class ReMoeRouter : public Router {
 public:
  ReMoeRouter(ParameterSet& set, const std::string& name, const RouterOptions& o)
      : options_(o), token_(router_linear(set, name + ".token", o)) {
    for (const State& s : set.states()) first_ = first_ && s.name != kGrowth;
    growth_ = set.add_state(kGrowth, {1}, Init::one(), true);
    progress_ = set.add_state("moe.remoe.progress", {3}, Init::zero(), true);
  }

  Routing route(const RoutingInputs& in) const override {
    const Sequences& sequences = in.pass.sequences;
    Var scores = linear_scores(in, token_);
    const Var open = relu(scores);
    // ln 0 = −∞ keeps closed experts out of the choice.
    Gates gates = choose_among(open, log(open.value()).value(), options_.n_experts, sequences);
    Routing r = routing_of(std::move(scores), std::move(gates), 0);
    r.matrix = token_.weight->var;
    const Tensor counts = expert_counts(r.experts, r.n_experts, open.dtype()),
                 tokens = real_rows(sequences, open.dtype()).reshape({1});
    add_loss(r, "sparsity", options_.own.get<double>(kStart), sparsity(open, counts, tokens));
    if (in.pass.training) r.statistics = {{"load", counts}, {"tokens", tokens}};
    return r;
  }
  void after_step(const StepStatistics& step) const override {
    const double share = static_cast<double>(options_.top_k) / static_cast<double>(options_.n_experts);
    update_sparsity_weight(growth_->value, progress_->value, step["load"], step["tokens"], share,
                           options_.own.get<double>(kFactor), first_);
  }
  Explanation explain(const RoutingInputs& in) const override { return by_token(linear_scores(in, token_)); }

 private:
  // λ / λ0 · E / (K T²) · Σ_e count_e Σ_t g_te, counts and sums of all ranks, no gradient through the counts
  Var sparsity(const Var& open, const Tensor& own_counts, const Tensor& own_tokens) const {
    const Tensor counts = sum_over_ranks(own_counts).value(), tokens = sum_over_ranks(own_tokens).value();
    const Var each = reshape(matmul(open, counts.reshape({counts.numel(), 1})), {open.size(0)});
    const Var all = sum_over_ranks(reshape(sum(each), {1}));
    const double scale_by = static_cast<double>(options_.n_experts) / static_cast<double>(options_.top_k);
    return mul(scale(div(div(all, tokens), tokens), scale_by), growth_->value);
  }

  RouterOptions options_;
  Linear token_;
  State *growth_, *progress_;  // λ / λ0 [1], and what its update has seen of the step [3]: of all layers
  bool first_ = true;          // of the model's layers
};

OracleRouting oracle_of(const OracleInputs& in) {
  const auto E = static_cast<size_t>(in.n_experts);
  OracleRouting r;
  r.scores = oracle_linear(in.x, in.weight("token.weight"), in.weight("token.bias"));
  std::vector<double> count(E), sum(E);
  for (size_t t = 0; t < static_cast<size_t>(in.tokens()); ++t) {
    r.experts.emplace_back();
    r.gates.emplace_back();
    for (const int32_t e : oracle_order(&r.scores[t * E], in.n_experts)) {
      const double g = r.scores[t * E + static_cast<size_t>(e)];
      if (g <= 0) break;
      r.experts.back().push_back(e);
      r.gates.back().push_back(g);
      count[static_cast<size_t>(e)] += 1, sum[static_cast<size_t>(e)] += g;
    }
  }
  const auto T = static_cast<double>(in.tokens());
  double loss = 0;
  for (size_t e = 0; e < E; ++e)
    loss +=
        in.weight(kGrowth)[0] * static_cast<double>(E) / static_cast<double>(in.top_k) * count[e] * sum[e] / T / T;
  r.losses = {loss};
  return r;
}

}  // namespace

RouterRow remoe_row() {
  return {
      "remoe",
      [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
        return std::make_unique<ReMoeRouter>(set, name, o);
      },
      "g = ReLU(W x + b), every expert with g > 0; loss λ · E / (K T²) · Σ_e count_e Σ_t g_te; λ · 1.2 after a step "
      "whose mean share of active experts is above K / E, else λ / 1.2",
      "Wang et al. 2024, arXiv 2412.14711, trained there from scratch: gates are not shares, so from a dense model's "
      "weights a layer starts with the FFN's output times their sum, and the loss that keeps experts off pulls it to 0",
      {.gates_sum_to_one = false, .fixed_k = false, .stateful = true},
      options(),
      {},
      oracle_of};
}

}  // namespace glia
