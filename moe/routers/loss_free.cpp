// Loss-free balance (Wang et al. 2024): a bias of each expert takes part in the choice and in nothing else, and goes
// down after a step in which the expert had more than its share.
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/moe/choose.h"
#include "engine/ops/sequences/sequences.h"
#include "moe/routers/parts.h"

#include <cmath>

namespace glia {
namespace {

const OptionRow kScore = {
    "score", std::string("sigmoid"), "what logits become: sigmoid, or softmax over all experts", 0,
    0,       {"sigmoid", "softmax"}};

std::span<const OptionRow> options() {
  static const OptionRow rows[] = {kBiasRate, kScore};
  return rows;
}

class LossFreeRouter : public Router {
 public:
  LossFreeRouter(ParameterSet& set, const std::string& name, const RouterOptions& o)
      : options_(o), token_(router_linear(set, name + ".token", o)), bias_(set, name, o) {}

  Routing route(const RoutingInputs& in) const override {
    const Sequences& sequences = in.pass.sequences;
    Routing r;
    r.n_experts = options_.n_experts;
    r.chosen = options_.top_k;
    r.matrix = token_.weight->var;
    r.scores = router_logits(in.x, token_.weight->var, token_.bias->var, {}, ContextMode::kNone, sequences);
    const bool whole = options_.own.get<std::string>(kScore) == "softmax";
    const Var scores = whole ? softmax(r.scores) : sigmoid(r.scores);
    Gates g = choose(scores, bias_.value(), options_.top_k, sequences);
    r.gates = std::move(g.gates);
    r.experts = std::move(g.experts);
    bias_.count(r, in);
    return r;
  }

  void after_step(const StepStatistics& step) const override { bias_.after_step(step); }

 private:
  RouterOptions options_;
  Linear token_;
  LoadBias bias_;
};

OracleRouting oracle_of(const OracleInputs& in) {
  const auto E = static_cast<size_t>(in.n_experts);
  const std::vector<double> bias = in.weight("load_bias");
  OracleRouting r;
  r.scores = oracle_linear(in.x, in.weight("token.weight"), in.weight("token.bias"));
  for (size_t t = 0; t < static_cast<size_t>(in.tokens()); ++t) {
    std::vector<double> s = oracle_softmax(&r.scores[t * E], in.n_experts);
    if (in.options.get<std::string>(kScore) == "sigmoid")
      for (size_t e = 0; e < E; ++e) s[e] = 1 / (1 + std::exp(-r.scores[t * E + e]));
    std::vector<double> choice = s;
    for (size_t e = 0; e < E; ++e) choice[e] += bias[e];
    std::vector<int32_t> chosen = oracle_order(choice.data(), in.n_experts);
    chosen.resize(static_cast<size_t>(in.top_k));
    r.experts.push_back(chosen);
    r.gates.emplace_back();
    for (const int32_t e : chosen) r.gates.back().push_back(s[static_cast<size_t>(e)]);
  }
  return r;
}

}  // namespace

RouterRow loss_free_row() {
  return {
      "loss-free",
      [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
        return std::make_unique<LossFreeRouter>(set, name, o);
      },
      "s = sigmoid(W x + b) or softmax; the K largest s_e + b_e, weighed by s_e; b_e += u · sign(mean load − load_e)",
      "Wang et al. 2024, arXiv 2408.15664",
      {.gates_sum_to_one = false, .stateful = true},
      options(),
      {},
      oracle_of};
}

}  // namespace glia
