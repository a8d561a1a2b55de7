// The softmax family with its score function as an option: what logits become before the K largest are taken.
#include <cmath>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/norm/normalise_rows.h"
#include "moe/routers/parts.h"

namespace glia {
namespace {

const OptionRow kFunction = {"score-function",
                             std::string("softmax"),
                             "what logits become: softmax (over all experts), sigmoid, sqrt-softplus or relu",
                             0,
                             0,
                             {"softmax", "sigmoid", "sqrt-softplus", "relu"}};
const OptionRow kNormalise = {"normalise-gates", false,
                              "on: divide the chosen scores by their sum; with softmax that is the router softmax"};

std::span<const OptionRow> options() {
  static const OptionRow rows[] = {kFunction, kNormalise};
  return rows;
}

Var score(const std::string& function, const Var& logits) {
  if (function == "softmax") return softmax(logits);
  if (function == "sigmoid") return sigmoid(logits);
  if (function == "relu") return relu(logits);
  return exp(scale(log(softplus(logits)), 0.5));
}

double score_of(const std::string& function, double l) {
  if (function == "sigmoid") return 1 / (1 + std::exp(-l));
  if (function == "relu") return std::max(l, 0.0);
  return std::sqrt(std::log1p(std::exp(l)));
}

class ScoredRouter : public Router {
 public:
  ScoredRouter(ParameterSet& set, const std::string& name, const RouterOptions& o)
      : top_k_(o.top_k),
        function_(o.own.get<std::string>(kFunction)),
        normalise_(o.own.get<bool>(kNormalise)),
        token_(router_linear(set, name + ".token", o)) {
    if (normalise_ && top_k_ == 1 && o.n_experts > 1)
      fail_input(
          "router scored: with top_k 1 and --normalise-gates on its gate is always 1, so the router gets no "
          "gradient; expected top_k >= 2 or --normalise-gates off");
  }

  Routing route(const RoutingInputs& in) const override {
    Var scores = linear_scores(in, token_);
    // By the logits, in whose order every score function leaves the experts: ReLU's zeros do not tie then.
    Gates gates = choose_among(score(function_, scores), scores.value(), top_k_, in.pass.sequences);
    if (normalise_) gates.gates = share_rows(gates.gates);
    Routing r = routing_of(std::move(scores), std::move(gates), top_k_);
    r.matrix = token_.weight->var;
    return r;
  }
  Explanation explain(const RoutingInputs& in) const override { return by_token(linear_scores(in, token_)); }

 private:
  int64_t top_k_;
  std::string function_;
  bool normalise_;
  Linear token_;
};

OracleRouting oracle_of(const OracleInputs& in) {
  const std::vector<double> l = oracle_linear(in.x, in.weight("token.weight"), in.weight("token.bias"));
  const auto function = in.options.get<std::string>(kFunction);
  const std::vector<double> s = function == "softmax"
                                    ? oracle::softmax_rows(l, in.n_experts)
                                    : oracle::map(l, [&](double v) { return score_of(function, v); });
  return oracle::choose(in, l, l, s, in.options.get<bool>(kNormalise));
}

}  // namespace

RouterRow scored_row() {
  RouterRow row = {
      "scored",
      [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
        return std::make_unique<ScoredRouter>(set, name, o);
      },
      "s = f(W x + b), f softmax, sigmoid, sqrt(softplus) or ReLU; the K largest, weighed by s or by s / Σ s",
      "docs/science.md 7: the score functions in use since 2017, as one option",
      {.gates_sum_to_one = false},
      options(),
      {},
      oracle_of};
  row.gates_sum = [](const OptionValues& own) {  // ReLU's may all be 0
    return own.get<bool>(kNormalise) && own.get<std::string>(kFunction) != "relu" ? 1.0 : 0.0;
  };
  row.of_gates = options();  // the scores are the logits
  return row;
}

}  // namespace glia
