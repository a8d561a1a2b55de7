// Sinkhorn (S-BASE; Clark et al. 2022): in training the choice is made by a matrix of tokens and experts that a few
// rounds of scaling have balanced; its weight, and all of evaluation, is the plain softmax.
#include <cmath>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/ranks/sum_over_ranks.h"
#include "engine/ops/rows/bias.h"
#include "moe/routers/parts.h"

namespace glia {
namespace {

const OptionRow kRounds = {"sinkhorn-rounds", int64_t{5}, "times that rows and columns are scaled", 1, 100};

std::span<const OptionRow> options() {
  static const OptionRow rows[] = {kRounds};
  return rows;
}

class SinkhornRouter : public Router {
 public:
  SinkhornRouter(ParameterSet& set, const std::string& name, const RouterOptions& o)
      : options_(o), token_(router_linear(set, name + ".token", o)) {}

  Routing route(const RoutingInputs& in) const override {
    const Sequences& sequences = in.pass.sequences;
    Var scores = linear_scores(in, token_);
    // With one expert a token the softmax of that one alone would be 1.
    const Var weights = options_.top_k == 1 ? sigmoid(scores) : softmax(scores);
    const Tensor choice = in.pass.training ? balanced(scores.value(), sequences) : scores.value();
    Gates gates = choose_among(weights, choice, options_.top_k, sequences);
    Routing r = routing_of(std::move(scores), std::move(gates), options_.top_k);
    r.matrix = token_.weight->var;
    return r;
  }
  Explanation explain(const RoutingInputs& in) const override { return by_token(linear_scores(in, token_)); }

 private:
  // d₀ = 1 / (T · C d₁), d₁ = 1 / (E · Cᵀ d₀) in turn, C = softmax(l). The choice by l + ln d₁ is that by d₁ C d₀, for d₀
  // scales a token's row; so it does not matter either that C differs from exp(l) by a factor in each row.
  Tensor balanced(const Tensor& l, const Sequences& sequences) const {
    const DType dtype = l.dtype();
    const Tensor real = constant_rows(sequences, options_.n_experts, 1, dtype);
    const Tensor c = mul(softmax(l), real).value();
    const Tensor rows_of_ones = full(l.context(), {l.size(0), 1}, 1.0, dtype),
                 experts_of_ones = full(l.context(), {l.size(1), 1}, 1.0, dtype);
    Tensor d1 = experts_of_ones;
    for (int64_t i = 0; i < options_.own.get<int64_t>(kRounds); ++i) {
      const Tensor d0 =
          div(rows_of_ones, add_scalar(matmul(c, d1), kLeast)).value();  // in the tail no matter: C is 0
      d1 = div(experts_of_ones, add_scalar(sum_over_ranks(matmul(c, d0, true)), kLeast)).value();
    }
    return bias_add(l, log(d1.reshape({l.size(1)})).value()).value();
  }
  static constexpr double kLeast = 1e-8;

  RouterOptions options_;
  Linear token_;
};

OracleRouting oracle_of(const OracleInputs& in) {
  const auto l = oracle_linear(in.x, in.weight("token.weight"), in.weight("token.bias"));
  return oracle::choose(in, l, l,
                        in.top_k == 1 ? oracle::map(l, [](double v) { return 1 / (1 + std::exp(-v)); })
                                      : oracle::softmax_rows(l, in.n_experts),
                        false);
}

}  // namespace

RouterRow sinkhorn_row() {
  return {
      "sinkhorn",
      [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
        return std::make_unique<SinkhornRouter>(set, name, o);
      },
      "l = W x + b; in training the K largest of d₁ exp(l) d₀ after a fixed number of Sinkhorn rounds over the batch, in "
      "evaluation of l; weighed by softmax(l), or by sigmoid(l) for K = 1",
      "Clark et al. 2022, arXiv 2202.01169, as in Megatron-LM; there it iterates to a tolerance, which would wait for the "
      "device",
      {.gates_sum_to_one = false, .trains_on_batch = true, .weighable = false},
      options(),
      {},
      oracle_of};
}

}  // namespace glia
