// Losses on scores over more than one batch's loads: the variance of scores over tokens, and the balance of a whole step.
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/row_losses.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/moe/choose.h"
#include "engine/ops/ranks/sum_over_ranks.h"
#include "engine/ops/rows/reduce.h"
#include "engine/ops/rows/rows.h"
#include "moe/losses/losses.h"
#include "moe/routers/parts.h"

namespace glia {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// A number, n times.     one element → [n]
Var repeated(const Var& x, int64_t n) {
  return reshape(gather_rows(reshape(x, {1, 1}), zeros(x.context(), {n}, DType::kInt32)), {n});
}

Var of_all_ranks(const Var& x) { return several_ranks(x) ? sum_over_ranks(x) : x; }

// −(1/E) Σ_e (mean_t p² − (mean_t p)²), means over the rows of all ranks.
Var variance(const LossInputs& from) {
  const Var& l = from.routing.scores;
  const Sequences& q = from.in.pass.sequences;
  const int64_t n = from.routing.n_experts;
  const Var p = mul(softmax(l), constant_rows(q, n, 1, l.dtype()));
  const Var rows = repeated(of_all_ranks(real_rows(q, l.dtype())), n);
  const auto mean_of = [&](const Var& x) { return div(of_all_ranks(sum(x, 0)), rows); };
  const Var spread = sub(mean_of(square(p)), square(mean_of(p)));
  return scale(reshape(sum(spread), {1}), -1.0 / static_cast<double>(n));
}

std::vector<double> variance_oracle(const OracleRouting& r, int64_t n_experts, int64_t) {
  const auto E = static_cast<size_t>(n_experts), T = r.scores.size() / E;
  std::vector<double> mean(E);
  double sum = 0;
  for (const bool second : {false, true})
    for (size_t t = 0; t < T; ++t) {
      const std::vector<double> p = oracle_softmax(&r.scores[t * E], n_experts);
      for (size_t e = 0; e < E; ++e)
        if (!second) mean[e] += p[e] / static_cast<double>(T);
        else sum -= (p[e] - mean[e]) * (p[e] - mean[e]) / static_cast<double>(T * E);
    }
  return {sum};
}

// The loads of the step's micro-batches so far, this one's among them, on all ranks, as if they were this rank's rows:
// switch_loss() divides by those.
Tensor loads_so_far(const LossInputs& from) {
  const Routing& r = from.routing;
  const NoGrad no_grad(r.scores.context());
  const int64_t n = r.n_experts;
  const DType type = r.scores.dtype();
  const Tensor own = real_rows(from.in.pass.sequences, type).reshape({1});
  Tensor seen = empty(r.scores.context(), {n + 1}, type);
  seen.rows(0, n).copy_from(expert_counts(r.experts, n, type));
  seen.rows(n, n + 1).copy_from(own);
  seen = of_all_ranks(seen).value();
  if (const Tensor& counted = from.in.counted; counted.defined() && from.in.pass.training) {
    Tensor(counted).copy_from(add(counted, cast(seen, counted.dtype())).value());
    seen = cast(Var(counted), type).value();
  }
  const Var part = div(own, seen.rows(n, n + 1));
  return mul(seen.rows(0, n), repeated(part, n)).value();
}

Var global_balance(const LossInputs& from) {
  const Sequences& q = from.in.pass.sequences;
  const int64_t per_token = std::max<int64_t>(1, from.routing.chosen);
  return over_ranks(switch_loss(from.routing.scores, loads_so_far(from), per_token, q), q);
}

}  // namespace

LossRow variance_row() {
  return {
      {"variance"},
      {{"variance-loss", 0.0, "weight of minus the variance over tokens of each expert's probability", 0,
        kInfinity}},
      false,
      "−(1/E) Σ_e variance over tokens of P_e, P = softmax(l): routers that tell tokens apart",
      "Guo et al. 2025, arXiv 2505.22323",
      "its sum over tokens is a mean here, as that of orthogonality; P is the softmax of the scores whatever the router "
      "makes of them",
      variance,
      variance_oracle};
}

LossRow global_balance_row() {
  return {
      {"global_balance"},
      {{"global-balance", 0.0, "weight of E · Σ f_e P_e with the f of the whole step so far; 1e-2 … 1e-3 in use", 0,
        kInfinity}},
      false,
      "E · Σ_e f_e P_e, f over all ranks and the step's micro-batches up to this one, P of this micro-batch; gradient "
      "through P alone",
      "Qiu et al. 2025, arXiv 2501.11873 (global-batch balance)",
      "micro-batches count by their rows, where its mean of their f counts all alike. In evaluation f is the batch's own",
      global_balance,
      switch_oracle,
      LossReads::kCounted};
}

}  // namespace glia
