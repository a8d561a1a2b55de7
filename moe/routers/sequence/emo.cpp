// EMO's document pool: a sequence first picks a pool of experts by what all of its tokens want, and each token its own
// within the pool.
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/routing/keep.h"
#include "moe/losses/losses.h"
#include "moe/routers/parts.h"

namespace glia {
namespace {

const OptionRow
    kPool = {"pool-size", int64_t{0}, "experts of a sequence's pool in evaluation; 0: half of them, K + 1 at least",
             0, 65536},
    kFewest = {"pool-fewest", int64_t{0},
               "in training the size is drawn, for each sequence and layer, from this to all; 0: from K", 0, 65536},
    kBalance = {"pool-loss", 0.1, "weight of E · Σ f_e P_e with P within the pools", 0, 1e9};

std::span<const OptionRow> options() {
  static const OptionRow rows[] = {kPool, kFewest, kBalance};
  return rows;
}

int64_t pool_size(const OptionValues& own, int64_t n_experts, int64_t top_k) {
  const auto size = own.get<int64_t>(kPool);
  return size > 0 ? size : std::min(n_experts, std::max(top_k + 1, n_experts / 2));
}

class EmoRouter : public Router {
 public:
  EmoRouter(ParameterSet& set, const std::string& name, const RouterOptions& o)
      : options_(o),
        size_(pool_size(o.own, o.n_experts, o.top_k)),
        fewest_(o.own.get<int64_t>(kFewest)),
        token_(router_linear(set, name + ".token", o)) {
    if (fewest_ == 0) fewest_ = o.top_k;
    if (size_ < o.top_k || size_ > o.n_experts || fewest_ < o.top_k || fewest_ > o.n_experts)
      fail_input(
          "router emo: expected --pool-size and --pool-fewest between top_k {} and the {} experts, got {} and {}",
          o.top_k, o.n_experts, size_, fewest_);
  }

  Routing route(const RoutingInputs& in) const override {
    const Sequences& sequences = in.pass.sequences;
    Var scores = linear_scores(in, token_);
    const Var inside = add(scores, sequence_broadcast(pool(in, scores.value()), sequences).value());
    const Var p = softmax(inside);
    Gates gates = choose_among(p, inside.value(), options_.top_k, sequences);
    Routing r = routing_of(std::move(scores), std::move(gates), options_.top_k);
    r.matrix = token_.weight->var;
    if (r.n_experts < 2) return r;
    const Tensor counts = expert_counts(r.experts, r.n_experts, p.dtype());
    add_loss(r, "pool", options_.own.get<double>(kBalance),
             switch_loss_of(inside, counts, options_.top_k, sequences));
    return r;
  }
  Explanation explain(const RoutingInputs& in) const override {
    Explanation e = by_token(linear_scores(in, token_));
    e.allowed = pool(in, e.token_logits), e.allowed_name = "pool";
    e.of_sequences = {{"mean probability", "e", 0, wanted(in, e.token_logits)}};
    return e;
  }

 private:
  static Sequences whole(Sequences all) {
    all.key_lengths = {};  // in the padded layout of the published code padding counts (docs/science.md 6)
    return all;
  }
  // What all of a sequence's tokens want.     → [B, E]
  static Tensor wanted(const RoutingInputs& in, const Tensor& scores) {
    return sequence_mean(softmax(scores).value(), whole(in.pass.sequences), false).value();
  }
  // 0 for the experts of each sequence's pool, −∞ for the others; the choice has no gradient.     → [B, E]
  Tensor pool(const RoutingInputs& in, const Tensor& scores) const {
    const Tensor mean = wanted(in, scores);
    if (!in.pass.training) return keep_largest(mean, size_, size_, {});
    const Sequences all = whole(in.pass.sequences);
    // A sequence draws what its first row does, whichever part of the batch it is in.
    const Tensor drawn =
        random_rows(in.context(), all.tokens, 1, mean.dtype(), RandomKind::kUniform, noise_key(in));
    const Tensor u = first_rows(drawn, all).value();
    return keep_largest(mean, fewest_, options_.n_experts, u);
  }

  RouterOptions options_;
  int64_t size_, fewest_;
  Linear token_;
};

OracleRouting oracle_of(const OracleInputs& in) {
  const auto E = static_cast<size_t>(in.n_experts);
  const auto l = oracle_linear(in.x, in.weight("token.weight"), in.weight("token.bias"));
  const std::vector<double> p = oracle::softmax_rows(l, in.n_experts);
  std::vector<double> inside = l;
  size_t t = 0;
  for (const int32_t length : in.lengths) {
    std::vector<double> wanted(E);
    for (size_t i = t * E; i < (t + static_cast<size_t>(length)) * E; ++i) wanted[i % E] += p[i];
    const std::vector<int32_t> order = oracle_order(wanted.data(), in.n_experts);
    for (const size_t end = t + static_cast<size_t>(length); t < end; ++t)
      for (auto i = static_cast<size_t>(pool_size(in.options, in.n_experts, in.top_k)); i < E; ++i)
        inside[t * E + static_cast<size_t>(order[i])] = -INFINITY;
  }
  const std::vector<double> q = oracle::softmax_rows(inside, in.n_experts);
  OracleRouting r = oracle::choose(in, l, inside, q, false);
  const std::vector<double> mask = oracle::chosen_mask(r, in.n_experts);
  std::vector<double> f(E), mean(E);
  for (size_t i = 0; i < q.size(); ++i) f[i % E] += mask[i], mean[i % E] += q[i];
  const auto T = static_cast<double>(in.tokens());
  double loss = 0;
  for (size_t e = 0; e < E; ++e)
    loss += static_cast<double>(E) / static_cast<double>(in.top_k) * f[e] / T * mean[e] / T;
  r.losses = {loss};
  return r;
}

}  // namespace

RouterRow emo_row() {
  return {
      "emo",
      [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
        return std::make_unique<EmoRouter>(set, name, o);
      },
      "q = Σ_t softmax(W x_t + b) over the sequence; the m experts with the largest q, m drawn in training; K largest of "
      "the softmax within them, weighed by it",
      "EMO, arXiv 2605.06663; there 128 experts, m from 8 to 128 and 32 in evaluation, and shared experts",
      {.gates_sum_to_one = false, .reads_future = true, .weighable = false},
      options(),
      {},
      oracle_of};
}

}  // namespace glia
