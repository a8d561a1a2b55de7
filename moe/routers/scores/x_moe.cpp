// X-MoE (Chi et al. 2022): the cosine between a token, projected to few dimensions, and an embedding of each expert.
#include <cmath>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/norm/normalise_rows.h"
#include "engine/ops/products/matmul.h"
#include "moe/routers/parts.h"

namespace glia {
namespace {

const OptionRow kTemperature = {"temperature", 0.3, "τ that the cosines are divided by", 1e-3, 1e3},
                kSize = {"routing-size", int64_t{0}, "dimensions of the tokens' projection; 0: half the experts", 0,
                         65536};

std::span<const OptionRow> options() {
  static const OptionRow rows[] = {kTemperature, kSize};
  return rows;
}

constexpr double kLength = 1.5;  // that every expert's embedding is taken for, as released
constexpr double kGain = 0.32;   // of its random start

int64_t routing_size(const OptionValues& own, int64_t n_experts) {
  const auto size = own.get<int64_t>(kSize);
  return size > 0 ? size : std::max<int64_t>(1, n_experts / 2);
}

class XMoeRouter : public Router {
 public:
  XMoeRouter(ParameterSet& set, const std::string& name, const RouterOptions& o)
      : options_(o),
        size_(routing_size(o.own, o.n_experts)),
        down_(set, name + ".down", o.hidden, size_, o.init_std),
        embedding_(set.add(name + ".embedding", {o.n_experts, size_},
                           Init::normal(kGain / std::sqrt(static_cast<double>(size_))), true)) {
    embedding_->expert_axis = 0;
  }

  Routing route(const RoutingInputs& in) const override {
    const Sequences& sequences = in.pass.sequences;
    const Var token = unit_rows(linear_scores(in, down_));  // [T, r]
    const Var logits =
        scale(linear(token, unit_rows(embedding_->var)), kLength / options_.own.get<double>(kTemperature));
    Gates gates = top_k_gates(logits, options_.top_k, sequences);
    return routing_of(logits, std::move(gates), options_.top_k);
  }
  Explanation explain(const RoutingInputs& in) const override { return by_token(route(in).scores); }

 private:
  RouterOptions options_;
  int64_t size_;
  Linear down_;           // [r, H]
  Parameter* embedding_;  // e [E, r]
};

OracleRouting oracle_of(const OracleInputs& in) {
  const auto E = static_cast<size_t>(in.n_experts);
  const auto R = static_cast<size_t>(routing_size(in.options, in.n_experts));
  const std::vector<double> d = oracle_linear(in.x, in.weight("down.weight"), in.weight("down.bias")),
                            e = in.weight("embedding");
  const auto length = [&](const double* v) {
    double sum = 0;
    for (size_t i = 0; i < R; ++i) sum += v[i] * v[i];
    return std::sqrt(sum);
  };
  std::vector<double> l(static_cast<size_t>(in.tokens()) * E);
  for (size_t i = 0; i < l.size(); ++i) {
    const double *x = &d[i / E * R], *y = &e[i % E * R];
    for (size_t r = 0; r < R; ++r) l[i] += x[r] * y[r];
    l[i] *= kLength / (length(x) * length(y) * in.options.get<double>(kTemperature));
  }
  return oracle::choose(in, l, l, oracle::map(l, [](double v) { return std::exp(v); }), true);
}

}  // namespace

RouterRow x_moe_row() {
  static constexpr LossDefault losses[] = {{"switch-loss", 1e-2}};
  return {
      "x-moe",
      [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
        return std::make_unique<XMoeRouter>(set, name, o);
      },
      "l_e = 1.5 · cos(W_d x + b_d, e) / τ; softmax over the K largest",
      "Chi et al. 2022, arXiv 2204.09179, as in LibMoE; the paper has one expert a token, weighed by the softmax over all "
      "of cos / τ without 1.5, and learns τ, and its released code leaves the token's length in and has no τ. All have no "
      "b_d and start e orthogonal. Where they set |e| to 1.5 anew in each step, here the gradient goes through the length: "
      "to first order the same",
      {.linear = false},
      options(),
      losses,
      oracle_of};
}

}  // namespace glia
