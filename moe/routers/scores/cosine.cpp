// Cosine scores with one learned scale: Soft MoE's logits, and those of routers for experts that share few directions.
#include <cmath>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/norm/row_lengths.h"
#include "engine/ops/products/matmul.h"
#include "moe/routers/parts.h"

namespace glia {
namespace {

class CosineRouter : public Router {
 public:
  CosineRouter(ParameterSet& set, const std::string& name, const RouterOptions& o)
      : options_(o),
        direction_(set.add(name + ".direction", {o.n_experts, o.hidden}, Init::normal(o.init_std), true)),
        scale_(set.add(name + ".scale", {1, 1}, Init::one(), false)) {
    direction_->expert_axis = 0;
  }

  Routing route(const RoutingInputs& in) const override {
    Var scores = scores_of(in);
    Gates gates = top_k_gates(scores, options_.top_k, in.pass.sequences);
    return routing_of(std::move(scores), std::move(gates), options_.top_k);
  }
  Explanation explain(const RoutingInputs& in) const override { return by_token(scores_of(in)); }

 private:
  // Products over lengths: rows of length 1 would have to be written, in float32.
  Var scores_of(const RoutingInputs& in) const {
    const Var& w = direction_->var;
    const int64_t tokens = in.x.size(0), n = options_.n_experts;
    const Tensor none = zeros(in.context(), {n}, w.dtype());
    const Var products = router_logits(in.x, w, none, {}, ContextMode::kNone, in.pass.sequences),
              lengths = matmul(reshape(row_lengths(in.x), {tokens, 1}), reshape(row_lengths(w), {1, n})),
              cosines = div(products, lengths);
    return reshape(matmul(reshape(cosines, {cosines.value().numel(), 1}), scale_->var), cosines.shape());
  }

  RouterOptions options_;
  Parameter *direction_, *scale_;  // w [E, H]; s [1, 1]
};

OracleRouting oracle_of(const OracleInputs& in) {
  const auto E = static_cast<size_t>(in.n_experts), H = static_cast<size_t>(in.hidden);
  const std::vector<double> w = in.weight("direction");
  std::vector<double> l(static_cast<size_t>(in.tokens()) * E);
  for (size_t i = 0; i < l.size(); ++i) {
    const double *x = &in.x[i / E * H], *y = &w[i % E * H];
    double dot = 0, xx = 0, yy = 0;
    for (size_t h = 0; h < H; ++h) dot += x[h] * y[h], xx += x[h] * x[h], yy += y[h] * y[h];
    l[i] = in.weight("scale")[0] * dot / std::sqrt(xx * yy);
  }
  return oracle::choose(in, l, l, oracle::map(l, [](double v) { return std::exp(v); }), true);
}

}  // namespace

RouterRow cosine_row() {
  return {
      "cosine",
      [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
        return std::make_unique<CosineRouter>(set, name, o);
      },
      "l_e = s · cos(x, w_e), s learned from 1; softmax over the K largest",
      "the normalised logits of Puigcerver et al. 2024, arXiv 2308.00951 (Soft MoE: --mixture soft); there the choice of K "
      "has no part",
      {.linear = false},
      {},
      {},
      oracle_of};
}

}  // namespace glia
