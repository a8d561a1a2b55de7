// DeepSeek-V3's router: sigmoid scores, a bias of each expert that only the choice reads, experts from the best groups
// alone, and a small loss on the balance within each sequence.
#include <cmath>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/norm/normalise_rows.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/routing/keep.h"
#include "engine/ops/rows/bias.h"
#include "engine/ops/rows/reduce.h"
#include "engine/ops/rows/topk.h"
#include "moe/losses/losses.h"
#include "moe/routers/parts.h"

namespace glia {
namespace {

const OptionRow kGroups = {"groups", int64_t{1}, "groups of experts; 8 in DeepSeek-V3", 1, 4096},
                kKept = {"kept-groups", int64_t{1}, "groups that a token's experts come from; 4 in DeepSeek-V3", 1,
                         4096},
                kScale = {"gate-scale", 1.0, "what a token's gates sum to; 2.5 in DeepSeek-V3", 1e-6, 1e6},
                kSequence = {"sequence-loss", 1e-4, "weight of the balance loss within each sequence", 0, 1e9};

std::span<const OptionRow> options() {
  static const OptionRow rows[] = {kBiasRate, kGroups, kKept, kScale, kSequence};
  return rows;
}

class DeepSeekV3Router : public Router {
 public:
  DeepSeekV3Router(ParameterSet& set, const std::string& name, const RouterOptions& o)
      : options_(o),
        groups_(o.own.get<int64_t>(kGroups)),
        kept_(o.own.get<int64_t>(kKept)),
        token_(router_linear(set, name + ".token", o)),
        bias_(set, name, o) {
    if (o.n_experts % groups_ != 0 || kept_ > groups_ || o.top_k > kept_ * (o.n_experts / groups_))
      fail_input(
          "router deepseek-v3: expected --groups that divide the {} experts and --kept-groups that hold at least "
          "top_k {} of them, got {} groups and {} kept",
          o.n_experts, o.top_k, groups_, kept_);
  }

  Routing route(const RoutingInputs& in) const override {
    const Sequences& sequences = in.pass.sequences;
    Var logits = linear_scores(in, token_);
    const Var s = sigmoid(logits);
    Gates gates = groups_ == 1 ? choose(s, bias_.value(), options_.top_k, sequences)
                               : choose_among(s, grouped(s.value()), options_.top_k, sequences);
    gates.gates = scale(share_rows(gates.gates), options_.own.get<double>(kScale));
    Routing r = routing_of(std::move(logits), std::move(gates), options_.top_k);
    r.matrix = token_.weight->var;
    add_loss(r, "sequence", options_.own.get<double>(kSequence), sequence_loss(s, sequences));
    bias_.count(r, in);
    return r;
  }
  void after_step(const StepStatistics& step) const override { bias_.after_step(step); }

 private:
  // s + b where the expert's group is one of the best by the sum of its two largest, else −∞.     s [T, E]
  Tensor grouped(const Tensor& s) const {
    const int64_t rows = s.size(0), size = s.size(1) / groups_;
    const Tensor choice = bias_add(s, bias_.value()).value();
    const TopK best = top_k(choice.reshape({rows * groups_, size}), std::min<int64_t>(2, size));
    const Tensor sums = sum(best.values, 1).value().reshape({rows, groups_});
    const Tensor kept = keep_largest(sums, kept_, kept_, {}).reshape({rows * groups_, 1});
    const Tensor allowed = matmul(kept, full(s.context(), {1, size}, 1.0, s.dtype())).value();  // 0 or −∞
    return add(choice, allowed.reshape(s.shape())).value();
  }

  // Mean over the sequences of Σ_e f_e P_e: f from the K largest scores without bias and groups, P from s / Σ s.
  Var sequence_loss(const Var& s, Sequences sequences) const {
    sequences.key_lengths = {};  // in the padded layout of the published code padding counts (docs/science.md 6)
    const int64_t k = options_.top_k;
    const Tensor ones = full(s.context(), {s.size(0), k},
                             static_cast<double>(options_.n_experts) / static_cast<double>(k), s.dtype());
    const Tensor picked = scatter_last(ones, top_k(s, k).indices, options_.n_experts).value();
    const Var f = sequence_mean(picked, sequences, false), p = sequence_mean(share_rows(s), sequences, false);
    return mean_of_sequences(sum(mul(p, f.value()), 1), sequences);
  }

  RouterOptions options_;
  int64_t groups_, kept_;
  Linear token_;
  LoadBias bias_;
};

// Choice without groups (their test has a loop of its own).
OracleRouting oracle_of(const OracleInputs& in) {
  const auto E = static_cast<size_t>(in.n_experts), K = static_cast<size_t>(in.top_k);
  const std::vector<double> l = oracle_linear(in.x, in.weight("token.weight"), in.weight("token.bias")),
                            s = oracle::map(l, [](double v) { return 1 / (1 + std::exp(-v)); }),
                            bias = in.weight("load_bias");
  std::vector<double> choice = s;
  for (size_t i = 0; i < choice.size(); ++i) choice[i] += bias[i % E];
  OracleRouting r = oracle::choose(in, l, choice, s, true);
  double loss = 0;
  size_t t = 0;
  for (const int32_t length : in.lengths) {
    std::vector<double> f(E), p(E);
    for (const size_t end = t + static_cast<size_t>(length); t < end; ++t) {
      const std::vector<int32_t> order = oracle_order(&s[t * E], in.n_experts);
      double sum = 0;
      for (size_t e = 0; e < E; ++e) sum += s[t * E + e];
      for (size_t e = 0; e < E; ++e) p[e] += s[t * E + e] / sum / length;
      for (size_t k = 0; k < K; ++k) f[static_cast<size_t>(order[k])] += double(E) / double(K) / length;
    }
    for (size_t e = 0; e < E; ++e) loss += f[e] * p[e] / static_cast<double>(in.lengths.size());
  }
  r.losses = {loss};
  return r;
}

}  // namespace

RouterRow deepseek_v3_row() {
  RouterRow row = {
      "deepseek-v3",
      [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
        return std::make_unique<DeepSeekV3Router>(set, name, o);
      },
      "s = sigmoid(W x + b); the K largest s_e + b_e among the kept groups (by the sum of their two largest), weighed by "
      "scale · s / Σ s; b_e += u · sign(mean load − load_e); loss: mean over sequences of Σ f_e P_e, f from "
      "the K largest s, whatever bias and groups say, P from s / Σ s",
      "DeepSeek-AI 2024, arXiv 2412.19437; there 8 groups of which 4 are kept, scale 2.5 and a shared expert. Here one "
      "group and scale 1: the experts begin as copies of a pretrained FFN",
      {.stateful = true},
      options(),
      {},
      oracle_of};
  row.gates_sum = [](const OptionValues& own) { return own.get<double>(kScale); };
  return row;
}

}  // namespace glia
