// Noisy top-k (Shazeer et al. 2017): Gaussian noise on the logits in training, of a spread that the token chooses, and
// losses on the importance and on a smooth count of the load.
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/routing/noisy_load.h"
#include "engine/ops/rows/topk.h"
#include "moe/losses/losses.h"
#include "moe/routers/parts.h"

namespace glia {
namespace {

// 0.1 in the paper's text, 1e-2 in the released code, which is taken.
const OptionRow kImportance = {"importance-loss", 1e-2, "weight of CV² of the sums of gates", 0, 1e9},
                kLoad = {"load-loss", 1e-2, "weight of CV² of the smooth counts of pairs", 0, 1e9};

std::span<const OptionRow> options() {
  static const OptionRow rows[] = {kImportance, kLoad};
  return rows;
}

// Both matrices begin with zeros: at first the noise alone chooses. In evaluation all experts then tie, and the lower win.
Linear zero_linear(ParameterSet& set, const std::string& name, RouterOptions o) {
  o.init_std = 0;
  return router_linear(set, name, o);
}

class NoisyTopKRouter : public Router {
 public:
  NoisyTopKRouter(ParameterSet& set, const std::string& name, const RouterOptions& o)
      : options_(o), token_(zero_linear(set, name + ".token", o)), noise_(zero_linear(set, name + ".noise", o)) {}

  Routing route(const RoutingInputs& in) const override {
    const Sequences& sequences = in.pass.sequences;
    const int64_t k = options_.top_k, n = options_.n_experts;
    const Var clean = linear_scores(in, token_);
    Var noisy = clean, std;
    if (in.pass.training) {
      std = add_scalar(softplus(linear_scores(in, noise_)), 1e-2);
      const Tensor z =
          random_rows(in.context(), clean.size(0), n, clean.dtype(), RandomKind::kNormal, noise_key(in));
      noisy = add(clean, mul(std, mul(z, constant_rows(sequences, n, 1, clean.dtype())).value()));
    }
    Gates gates = top_k_gates(noisy, k, sequences);
    // A count has no gradient; nor is there a threshold to beat where all are taken.
    const Var load =
        std.defined() && k < n
            ? noisy_load(clean, std, noisy, k)
            : scatter_last(full(in.context(), {clean.size(0), k}, 1.0, clean.dtype()), top_k(noisy, k).indices, n);
    Routing r = routing_of(noisy, std::move(gates), k);
    r.matrix = token_.weight->var;
    if (n < 2) return r;
    r.load_losses = load_losses_of(r.gates, r.experts, n, sequences);
    add_loss(r, "importance", options_.own.get<double>(kImportance), rows(r.load_losses, 0, 1));
    add_loss(r, "load", options_.own.get<double>(kLoad), imbalance(load, sequences));
    return r;
  }
  Explanation explain(const RoutingInputs& in) const override { return by_token(linear_scores(in, token_)); }

 private:
  RouterOptions options_;
  Linear token_, noise_;
};

OracleRouting oracle_of(const OracleInputs& in) {
  OracleRouting r = oracle_top_k(in, OracleContext::kNone);
  std::vector<double> gates(r.scores.size());
  for (size_t t = 0; t < r.experts.size(); ++t)
    for (size_t k = 0; k < r.experts[t].size(); ++k)
      gates[t * static_cast<size_t>(in.n_experts) + static_cast<size_t>(r.experts[t][k])] = r.gates[t][k];
  r.losses = {oracle::imbalance(gates, in.n_experts),
              oracle::imbalance(oracle::chosen_mask(r, in.n_experts), in.n_experts)};
  return r;
}

}  // namespace

RouterRow noisy_top_k_row() {
  return {
      "noisy-top-k",
      [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
        return std::make_unique<NoisyTopKRouter>(set, name, o);
      },
      "h = W x + b + ε · (softplus(W_n x + b_n) + 0.01), ε ~ N(0, 1) in training, else 0; softmax over the K largest; "
      "losses: CV² of Σ gates and of Σ Φ((W x + b − threshold) / std)",
      "Shazeer et al. 2017, arXiv 1701.06538; the original has no b, and 0.1 for both losses where the code that followed it "
      "has 0.01, as here",
      {.weighable = false},
      options(),
      {},
      oracle_of};
}

}  // namespace glia
