// In the manner of GLIDER (Li et al. 2024): the token's choice and the sequence's, added: how much each expert fits the
// token, and how near the sequence is to those that the expert has served.
#include <cmath>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/norm/layer_norm.h"
#include "engine/ops/norm/normalise_rows.h"
#include "engine/ops/products/matmul.h"
#include "moe/routers/parts.h"

namespace glia {
namespace {

const OptionRow kScale = {"glider-scale", 1.0, "weight of the sequence's cosine beside the token's product", 0,
                          1e6},
                kMemory = {"glider-memory", 0.99, "what stays of an expert's embedding after a step", 0, 1};

std::span<const OptionRow> options() {
  static const OptionRow rows[] = {kScale, kMemory};
  return rows;
}

class GliderRouter : public Router {
 public:
  GliderRouter(ParameterSet& set, const std::string& name, const RouterOptions& o)
      : options_(o),
        token_(router_linear(set, name + ".token", o)),
        served_(set.add_state(name + ".served", {o.n_experts, o.hidden}, Init::zero())) {}

  Routing route(const RoutingInputs& in) const override {
    const Sequences& sequences = in.pass.sequences;
    const Tensor mean = sequence_means(in);  // [B, H]
    const Tensor near = cosines(mean);
    Var scores = add(token_scores(in), sequence_broadcast(near, sequences).value());
    Gates gates = top_k_gates(scores, options_.top_k, sequences);
    Routing r = routing_of(std::move(scores), std::move(gates), options_.top_k);
    r.matrix = token_.weight->var;
    if (in.pass.training) {
      const Tensor share = sequence_mean(softmax(r.scores.value()), sequences, false).value();  // [B, E]
      r.statistics.push_back({"served", matmul(share, mean, true).value()});
    }
    return r;
  }
  void after_step(const StepStatistics& step) const override {
    served_->value.copy_from(add(scale(served_->value, options_.own.get<double>(kMemory)), step["served"]).value());
  }
  Explanation explain(const RoutingInputs& in) const override {
    Explanation e = by_token(token_scores(in));
    e.mode = ContextMode::kAdd;
    e.context = cosines(sequence_means(in));
    return e;
  }

 private:
  // ⟨norm(x), v_e⟩ / √H: an affine-free layer norm first.
  Var token_scores(const RoutingInputs& in) const {
    const DType dtype = token_.weight->var.dtype();
    const int64_t h = options_.hidden;
    const Var plain =
        layer_norm(cast(in.x, dtype), full(in.context(), {h}, 1.0, dtype), zeros(in.context(), {h}, dtype), 1e-5);
    const Var weight = scale(token_.weight->var, 1 / std::sqrt(static_cast<double>(h)));
    return router_logits(plain, weight, token_.bias->var, {}, ContextMode::kNone, in.pass.sequences);
  }
  Tensor sequence_means(const RoutingInputs& in) const {
    Sequences all = in.pass.sequences;
    all.key_lengths = {};
    return cast(sequence_mean(in.x.value(), all, false).value(), token_.weight->var.dtype());
  }
  // Of each sequence and expert, without a gradient; 0 as long as an expert has served nobody.     → [B, E]
  Tensor cosines(const Tensor& mean) const {
    return scale(matmul(unit_rows(mean), unit_rows(served_->value), false, true), options_.own.get<double>(kScale))
        .value();
  }

  RouterOptions options_;
  Linear token_;   // v [E, H]
  State* served_;  // a fading sum of the sequences' means, weighed by the experts' P in them [E, H]
};

OracleRouting oracle_of(const OracleInputs& in) {
  const auto E = static_cast<size_t>(in.n_experts), H = static_cast<size_t>(in.hidden);
  const auto root = std::sqrt(static_cast<double>(in.hidden));
  std::vector<double> plain = in.x;
  for (size_t t = 0; t < plain.size(); t += H) {
    double mean = 0, square = 0;
    for (size_t h = 0; h < H; ++h) mean += plain[t + h] / static_cast<double>(H);
    for (size_t h = 0; h < H; ++h) square += (plain[t + h] - mean) * (plain[t + h] - mean) / static_cast<double>(H);
    for (size_t h = 0; h < H; ++h) plain[t + h] = (plain[t + h] - mean) / std::sqrt(square + 1e-5);
  }
  const auto weight = oracle::map(in.weight("token.weight"), [&](double v) { return v / root; });
  std::vector<double> l = oracle_linear(plain, weight, in.weight("token.bias"));
  const std::vector<double> served = in.weight("served");
  size_t t = 0;
  for (const int32_t length : in.lengths) {
    std::vector<double> mean(H);
    for (size_t i = t * H; i < (t + static_cast<size_t>(length)) * H; ++i) mean[i % H] += in.x[i] / length;
    for (const size_t end = t + static_cast<size_t>(length); t < end; ++t)
      for (size_t e = 0; e < E; ++e) {
        double dot = 0, a = 0, b = 0;
        for (size_t h = 0; h < H; ++h)
          dot += mean[h] * served[e * H + h], a += mean[h] * mean[h], b += served[e * H + h] * served[e * H + h];
        l[t * E + e] += in.options.get<double>(kScale) * dot / std::sqrt(a * b);
      }
  }
  return oracle::choose(in, l, l, oracle::map(l, [](double v) { return std::exp(v); }), true);
}

}  // namespace

RouterRow glider_row() {
  return {
      "glider",
      [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
        return std::make_unique<GliderRouter>(set, name, o);
      },
      "l_e = norm(x) · v_e / √H + b_e + scale · cos(served_e, mean of the sequence); softmax over the K largest; "
      "served_e: a fading sum of the sequences' means, each times the sequence's mean P_e",
      "after Li et al. 2024 (GLIDER), arXiv 2410.07172; there the experts' and the sequence's embeddings are of texts that "
      "a language model wrote, v_e is made of length 1 once, after training, there is no b_e, and the released scale is 0",
      {.reads_future = true, .stateful = true},
      options(),
      {},
      oracle_of};
}

}  // namespace glia
