// Ada-K (Yue et al. 2024): how many experts a token has is drawn from an allocator's distribution, which learns by policy
// gradient which draws paid; which experts they are is softmax's choice.
#include <cmath>
#include <numeric>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/norm/normalise_rows.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/ranks/sum_over_ranks.h"
#include "engine/ops/routing/keep.h"
#include "engine/ops/rows/reduce.h"
#include "engine/ops/rows/topk.h"
#include "moe/losses/losses.h"
#include "moe/routers/parts.h"

namespace glia {
namespace {

const OptionRow kFewer = {"fewer-experts", 3e-3, "weight λ of the mean number of experts that the allocator wants",
                          0, 1e9},
                kDiscount = {"policy-discount", 1.0, "γ: a layer's reward is times this for each layer above it", 0,
                             1};

std::span<const OptionRow> options() {
  static const OptionRow rows[] = {kFewer, kDiscount};
  return rows;
}

class AdaKRouter : public Router {
 public:
  AdaKRouter(ParameterSet& set, const std::string& name, const RouterOptions& o)
      : options_(o),
        token_(router_linear(set, name + ".token", o)),
        allocator_(set, name + ".allocator", o.hidden, o.n_experts, o.init_std) {}

  Routing route(const RoutingInputs& in) const override {
    const Sequences& q = in.pass.sequences;
    const int64_t n = options_.n_experts, tokens = in.x.size(0);
    Var scores = linear_scores(in, token_);
    const DType type = scores.dtype();
    const Var wanted = linear_scores(in, allocator_), p = softmax(wanted);  // of 1 … E experts
    const Tensor drawn = top_k(in.pass.training ? perturbed(in, wanted.value()) : wanted.value(), 1).indices;
    const Tensor one = scatter_last(full(in.context(), {tokens, 1}, 1, type), drawn, n).value();  // [T, E]
    // keep_largest() makes m of (m − 1/2) / E.
    const Var places =
        scale(add_scalar(matmul(one, numbers(in.context(), type)), -0.5), 1.0 / static_cast<double>(n));
    const Tensor kept = keep_largest(scores.value(), 1, n, places.value().reshape({tokens}));
    Gates gates = choose_among(softmax(scores), add(scores.value(), kept).value(), n, q);
    gates.gates = share_rows(gates.gates);
    Routing r = routing_of(std::move(scores), std::move(gates), 0);
    r.matrix = token_.weight->var;
    const Tensor real = constant_rows(q, 1, 1, type);
    const Var mean = div(sum(mul(matmul(p, numbers(in.context(), type)), real)), real_rows(q, type));
    add_loss(r, "wanted", options_.own.get<double>(kFewer), over_ranks(reshape(mean, {1}), q));
    if (!in.pass.training) return r;
    r.policy = mul(log(add_scalar(reshape(sum(mul(p, one), 1), {tokens, 1}), 1e-20)), real);
    r.policy_discount = options_.own.get<double>(kDiscount);
    return r;
  }
  Explanation explain(const RoutingInputs& in) const override {
    Explanation e = by_token(linear_scores(in, token_));
    e.of_tokens = {{"experts wanted", "", 1, softmax(linear_scores(in, allocator_)).value()}};
    return e;
  }

 private:
  // Gumbel's noise: the largest is a draw from the softmax. Away from 0 and 1, whose logarithms are none.
  Tensor perturbed(const RoutingInputs& in, const Tensor& l) const {
    const Tensor u =
        random_rows(in.context(), l.size(0), l.size(1), l.dtype(), RandomKind::kUniform, noise_key(in));
    const Var minus_log = scale(log(add_scalar(scale(u, 1 - 1e-6), 5e-7)), -1);
    return sub(l, log(minus_log)).value();
  }
  // 1 … E [E, 1]. Made once: an upload may not be captured.
  const Tensor& numbers(Context& context, DType type) const {
    if (!numbers_.defined()) {
      std::vector<double> all(static_cast<size_t>(options_.n_experts));
      std::iota(all.begin(), all.end(), 1.0);
      numbers_ = cast(from_vector(context, all, {options_.n_experts, 1}), type);
    }
    return numbers_;
  }

  RouterOptions options_;
  Linear token_, allocator_;  // both [E, H]; the allocator's n-th logit is that of n + 1 experts
  mutable Tensor numbers_;
};

OracleRouting oracle_of(const OracleInputs& in) {
  const auto E = static_cast<size_t>(in.n_experts), T = static_cast<size_t>(in.tokens());
  const std::vector<double> l = oracle_linear(in.x, in.weight("token.weight"), in.weight("token.bias")),
                            wanted =
                                oracle_linear(in.x, in.weight("allocator.weight"), in.weight("allocator.bias")),
                            mass = oracle::softmax_rows(l, in.n_experts);
  std::vector<double> choice(l.size(), -INFINITY);
  double mean = 0;
  for (size_t t = 0; t < T; ++t) {
    const std::vector<double> p = oracle_softmax(&wanted[t * E], in.n_experts);
    for (size_t n = 0; n < E; ++n) mean += static_cast<double>(n + 1) * p[n] / static_cast<double>(T);
    const int32_t most = oracle_order(&wanted[t * E], in.n_experts)[0];
    const std::vector<int32_t> order = oracle_order(&l[t * E], in.n_experts);
    for (int32_t i = 0; i <= most; ++i) {
      const size_t at = t * E + static_cast<size_t>(order[static_cast<size_t>(i)]);
      choice[at] = l[at];
    }
  }
  OracleRouting r = oracle::choose_finite(in, l, choice, mass);
  for (std::vector<double>& gates : r.gates) {
    const double sum = std::accumulate(gates.begin(), gates.end(), 0.0);
    for (double& g : gates) g /= sum;
  }
  r.losses = {mean};
  return r;
}

}  // namespace

RouterRow ada_k_row() {
  return {
      "ada-k",
      [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
        return std::make_unique<AdaKRouter>(set, name, o);
      },
      "π = softmax(W_a x + b_a) over 1 … E; n drawn from π in training, its largest in evaluation; the n largest l = W x "
      "+ b, weighed by softmax over them. Losses −A γ^(layers above) log π(n) and λ Σ_n n π(n)",
      "Yue et al. 2025 (Ada-K, ICLR). There PPO in two passes with the reward under plain top-K for a baseline, the rest "
      "of the model frozen; here one pass (the ratio is 1), A = the batch's mean loss − the loss of the sequence, or "
      "of the token that is predicted, and all is trained unless --train '*allocator*' says otherwise",
      {.fixed_k = false, .experts_permutable = true, .weighable = false, .learned_k = true},
      options(),
      {},
      oracle_of};
}

}  // namespace glia
