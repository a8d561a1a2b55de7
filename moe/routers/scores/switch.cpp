// Switch (Fedus et al. 2022): softmax over all experts before the choice, the chosen probability as the gate, not
// renormalised, so that one expert a token still has a gradient.
#include "engine/ops/loss/softmax.h"
#include "engine/ops/routing/noise/jitter.h"
#include "moe/routers/parts.h"

namespace glia {
namespace {

const OptionRow kJitter = {"jitter", 1e-2, "in training the router reads x · u, u uniform in 1 ± this", 0,
                           0.999999};

std::span<const OptionRow> options() {
  static const OptionRow rows[] = {kJitter};
  return rows;
}

class SwitchRouter : public Router {
 public:
  SwitchRouter(ParameterSet& set, const std::string& name, const RouterOptions& o)
      : top_k_(o.top_k), jitter_(o.own.get<double>(kJitter)), token_(router_linear(set, name + ".token", o)) {}

  Routing route(const RoutingInputs& in) const override {
    const Var x = jittered(in);
    Var scores = linear_scores({x, in.pass, in.layer, in.experts}, token_);
    Gates gates = choose(softmax(scores), {}, top_k_, in.pass.sequences);
    Routing r = routing_of(std::move(scores), std::move(gates), top_k_);
    r.matrix = token_.weight->var;
    return r;
  }
  Explanation explain(const RoutingInputs& in) const override { return by_token(linear_scores(in, token_)); }

 private:
  // The router's input alone: the experts read x as it is.
  Var jittered(const RoutingInputs& in) const {
    if (!in.pass.training || jitter_ == 0) return in.x;
    return jitter(in.x, jitter_, noise_key(in));
  }

  int64_t top_k_;
  double jitter_;
  Linear token_;
};

OracleRouting oracle_of(const OracleInputs& in) {
  const std::vector<double> l = oracle_linear(in.x, in.weight("token.weight"), in.weight("token.bias"));
  return oracle::choose(in, l, l, oracle::softmax_rows(l, in.n_experts), false);
}

}  // namespace

RouterRow switch_row() {
  static constexpr LossDefault losses[] = {{"switch-loss", 1e-2}};
  return {
      "switch",
      [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
        return std::make_unique<SwitchRouter>(set, name, o);
      },
      "P = softmax(W x + b); the K largest, weighed by P as it is; x · u before W in training. Its paper: K = 1",
      "Fedus et al. 2022, arXiv 2101.03961",
      {.gates_sum_to_one = false},
      options(),
      losses,
      oracle_of};
}

}  // namespace glia
