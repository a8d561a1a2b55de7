// A control of cost: every token has the first K experts, each with the same gate. That is a dense FFN K times as wide,
// with the active FLOPs of K chosen experts and no choice.
#include "engine/ops/elementwise/elementwise.h"
#include "moe/routers/parts.h"

namespace glia {
namespace {

class EveryRouter : public Router {
 public:
  explicit EveryRouter(const RouterOptions& o) : options_(o) {}

  Routing route(const RoutingInputs& in) const override {
    const Sequences& q = in.pass.sequences;
    const int64_t n = options_.n_experts, k = options_.top_k;
    const DType type = accumulation_dtype(in.x.dtype());
    const Var scores = zeros(in.context(), {in.x.size(0), n}, type);
    Gates gates = choose(scores, {}, k, q);  // of equals the first
    gates.gates = constant_rows(q, k, 1 / static_cast<double>(k), type);
    return routing_of(scores, std::move(gates), k);
  }

 private:
  RouterOptions options_;
};

OracleRouting oracle_of(const OracleInputs& in) {
  const std::vector<double> none(static_cast<size_t>(in.tokens() * in.n_experts)), ones(none.size(), 1.0);
  return oracle::choose(in, none, none, ones, true);
}

}  // namespace

RouterRow every_row() {
  return {"every",
          [](ParameterSet&, const std::string&, const RouterOptions& o) -> std::unique_ptr<Router> {
            return std::make_unique<EveryRouter>(o);
          },
          "the first K experts, each weighed by 1 / K",
          "a control: with --experts K it is a dense FFN of K times the width, at the cost of K chosen experts",
          {.experts_permutable = false, .untrained = true, .linear = false, .constant = true},
          {},
          {},
          oracle_of};
}

}  // namespace glia
