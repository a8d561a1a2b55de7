// Autonomy of Experts (Lv et al. 2025): no router. Every expert begins with each token, and those whose first product is
// largest go on.
#include <cmath>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/rows/reduce.h"
#include "engine/ops/rows/rows.h"
#include "moe/routers/parts.h"

namespace glia {
namespace {

class AutonomyRouter : public Router {
 public:
  explicit AutonomyRouter(const RouterOptions& o) : options_(o) {}

  Routing route(const RoutingInputs& in) const override {
    Var scores = lengths(in);
    Gates gates = choose(softmax(scores), {}, options_.top_k, in.pass.sequences);
    return routing_of(std::move(scores), std::move(gates), options_.top_k);
  }
  Explanation explain(const RoutingInputs& in) const override { return by_token(lengths(in)); }

 private:
  // ‖W_first,e x‖ of every token and expert.     → [T, E], 0 in the tail
  Var lengths(const RoutingInputs& in) const {
    CHECK(in.experts, "router autonomy: wants a layer's experts");
    const int64_t tokens = in.x.size(0), n = options_.n_experts;
    const DType type = accumulation_dtype(in.x.dtype());
    const Tensor all = choose(full(in.context(), {tokens, n}, 1, type), {}, n, in.pass.sequences).experts;
    return first_product_lengths(in.x, all, *in.experts);
  }

  RouterOptions options_;
};

OracleRouting oracle_of(const OracleInputs& in) {
  const auto E = static_cast<size_t>(in.n_experts), H = static_cast<size_t>(in.hidden);
  const std::vector<double> w = in.weight("experts.up.weight");
  const size_t F = w.size() / (E * H);
  std::vector<double> l(static_cast<size_t>(in.tokens()) * E);
  for (size_t i = 0; i < l.size(); ++i) {
    for (size_t f = 0; f < F; ++f) {
      double a = 0;
      for (size_t h = 0; h < H; ++h) a += w[(i % E * F + f) * H + h] * in.x[i / E * H + h];
      l[i] += a * a;
    }
    l[i] = std::sqrt(l[i]);
  }
  return oracle::choose(in, l, l, oracle::softmax_rows(l, in.n_experts), false);
}

}  // namespace

RouterRow autonomy_row() {
  return {
      "autonomy",
      [](ParameterSet&, const std::string&, const RouterOptions& o) -> std::unique_ptr<Router> {
        return std::make_unique<AutonomyRouter>(o);
      },
      "l_e = ‖W_first,e x‖, before the bias; the K largest, weighed by softmax(l) over all experts",
      "Lv et al. 2025, arXiv 2501.13074; there the first product is factored so that its narrow half, which all experts "
      "compute, is cheap. Here it is the FFN's own, so that a dense model's weights can start it; it costs E / 2K of the "
      "layer more, since the chosen experts begin again. Its code can add a balance loss, here --switch-loss",
      {.gates_sum_to_one = false, .reads_experts = true, .linear = false},
      {},
      {},
      oracle_of};
}

}  // namespace glia
