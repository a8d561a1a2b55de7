// DSelect-k (Hazimeh et al. 2021), its form that reads the token: K selectors, each a smooth binary number of an expert.
// Dense until the bits saturate; then a selector has one expert, perhaps another's.
#include <cmath>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/ranks/sum_over_ranks.h"
#include "engine/ops/routing/select_codes.h"
#include "engine/ops/rows/reduce.h"
#include "moe/routers/parts.h"

namespace glia {
namespace {

const OptionRow kGamma = {"selector-width", 1.0, "γ: bits are smooth within ± γ / 2", 1e-6, 1e6},
                kEntropy = {"selector-entropy", 0.0,
                            "weight of the selectors' entropy, a sum over tokens; 1e-6 in its paper", 0, 1e9};

std::span<const OptionRow> options() {
  static const OptionRow rows[] = {kGamma, kEntropy};
  return rows;
}

// ln of a weight that may be 0: the scores, whose softmax is the weights.
constexpr double kLeast = 1e-12;

class DSelectRouter : public Router {
 public:
  DSelectRouter(ParameterSet& set, const std::string& name, const RouterOptions& o)
      : options_(o),
        gamma_(o.own.get<double>(kGamma)),
        bits_(set, name + ".bits", o.hidden, o.top_k * code_bits(o.n_experts), gamma_ / 100),
        mix_(set, name + ".mix", o.hidden, o.top_k, o.init_std) {}

  Routing route(const RoutingInputs& in) const override {
    const Sequences& sequences = in.pass.sequences;
    const int64_t rows = in.x.size(0), k = options_.top_k, n = options_.n_experts;
    const Var p = select_codes(linear_scores(in, bits_), k, n, gamma_);  // [T·K, E]
    const Var alpha = softmax(linear_scores(in, mix_));                  // [T, K]
    const Var weights = reshape(matmul(reshape(alpha, {rows, 1, k}), reshape(p, {rows, k, n})), {rows, n});
    const Var real = constant_rows(sequences, n, 1, weights.dtype());
    Gates gates = choose_among(weights, log(weights.value()).value(), n, sequences);
    Routing r = routing_of(mul(log(add_scalar(weights, kLeast)), real), std::move(gates), 0);
    const Var of_rows = reshape(constant_rows(sequences, k * n, 1, p.dtype()), p.shape());
    const Var entropy = scale(sum(mul(mul(p, log(add_scalar(p, kLeast))), of_rows)), -1);
    add_loss(r, "selector-entropy", options_.own.get<double>(kEntropy), sum_over_ranks(reshape(entropy, {1})));
    return r;
  }

 private:
  RouterOptions options_;
  double gamma_;
  Linear bits_, mix_;  // [K·m, H], [K, H]
};

OracleRouting oracle_of(const OracleInputs& in) {
  const auto E = static_cast<size_t>(in.n_experts), K = static_cast<size_t>(in.top_k);
  const auto m = static_cast<size_t>(code_bits(in.n_experts));
  const double gamma = in.options.get<double>(kGamma);
  const auto z = oracle_linear(in.x, in.weight("bits.weight"), in.weight("bits.bias"));
  const auto alpha =
      oracle::softmax_rows(oracle_linear(in.x, in.weight("mix.weight"), in.weight("mix.bias")), in.top_k);
  std::vector<double> w(static_cast<size_t>(in.tokens()) * E);
  double entropy = 0;
  for (size_t t = 0; t < static_cast<size_t>(in.tokens()); ++t)
    for (size_t i = 0; i < K; ++i)
      for (size_t e = 0; e < E; ++e) {
        double p = 1;
        for (size_t b = 0; b < m; ++b) {
          const double v = z[(t * K + i) * m + b] / gamma;
          const double on = v <= -0.5 ? 0 : v >= 0.5 ? 1 : -2 * v * v * v + 1.5 * v + 0.5;
          p *= e >> b & 1 ? on : 1 - on;
        }
        w[t * E + e] += alpha[t * K + i] * p;
        entropy -= p * std::log(p + kLeast);
      }
  std::vector<double> choice = w;
  for (double& c : choice)
    if (c == 0) c = -INFINITY;
  OracleRouting r =
      oracle::choose_finite(in, oracle::map(w, [](double v) { return std::log(v + kLeast); }), choice, w);
  r.losses = {entropy};
  return r;
}

}  // namespace

RouterRow dselect_k_row() {
  return {
      "dselect-k",
      [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
        if ((o.n_experts & (o.n_experts - 1)) != 0)
          fail_input("router dselect-k: expected a power of two of experts, got {}", o.n_experts);
        return std::make_unique<DSelectRouter>(set, name, o);
      },
      "w = Σ_{i ≤ K} α_i Π_b (bit b of e ? S(z_ib) : 1 − S(z_ib)), z = W x + b, α = softmax(W_α x + b_α), S cubic within ± γ / 2; "
      "every expert with w > 0",
      "Hazimeh et al. 2021, arXiv 2106.03760, for experts that are a power of two: for other numbers it has codes without an "
      "expert and a penalty on them; bits begin within γ / 100 where the "
      "token is of unit length",
      {.fixed_k = false,
       .experts_permutable = false,
       .normalised = true,
       .linear = false,
       .weighable = false,
       .learned_k = true},
      options(),
      {},
      oracle_of};
}

}  // namespace glia
