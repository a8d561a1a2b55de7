#include "moe/routers/parts.h"

#include <cmath>
#include <numeric>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/moe/moe.h"
#include "engine/ops/norm/row_lengths.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/rows/reduce.h"
#include "engine/ops/rows/rows.h"
#include "moe/losses/losses.h"

namespace glia {

Var linear_scores(const RoutingInputs& in, const Linear& linear) {
  return router_logits(in.x, linear.weight->var, linear.bias->var, {}, ContextMode::kNone, in.pass.sequences);
}

Routing routing_of(Var scores, Gates gates, int64_t chosen) {
  Routing r;
  r.n_experts = scores.size(1);
  r.chosen = chosen;
  r.scores = std::move(scores);
  r.gates = std::move(gates.gates);
  r.experts = std::move(gates.experts);
  return r;
}

Explanation by_token(const Var& scores) {
  Explanation e;
  e.token_logits = scores.value();
  return e;
}

void add_loss(Routing& routing, const char* name, double weight, Var value) {
  routing.losses.push_back({{name}, {weight}, std::move(value)});
}

LoadBias::LoadBias(ParameterSet& set, const std::string& router, const RouterOptions& o)
    : bias_(set.add_state(router + ".load_bias", {o.n_experts}, Init::zero())),
      rate_(o.own.get<double>(kBiasRate)) {}

void LoadBias::count(Routing& r, const RoutingInputs& in) const {
  if (in.pass.training) r.statistics.push_back({"load", expert_counts(r.experts, r.n_experts, value().dtype())});
}

void LoadBias::after_step(const StepStatistics& step) const { update_load_bias(value(), step["load"], rate_); }

RandomKey noise_key(const RoutingInputs& in, uint32_t site) {
  RandomKey key = in.context().random_key(purpose::kRouterNoise + static_cast<uint32_t>(in.layer) * 16 + site);
  if (in.pass.rows_before.defined()) key.first_row = static_cast<const uint32_t*>(in.pass.rows_before.raw());
  return key;
}

Tensor constant_rows(const Sequences& q, int64_t n, double value, DType dtype) {
  return sequence_broadcast(full(q.sequence_of.context(), {q.count, n}, value, dtype), q).value();
}

Var root(const Var& x) { return exp(scale(log(x), 0.5)); }

Var first_product_lengths(const Var& x, const Tensor& all, const Experts& experts) {
  const int64_t rows = all.size(0), n = all.size(1);
  const Dispatch d = make_dispatch(all, n, expert_alignment(x.context(), x.dtype()));
  const Var first = grouped_linear(dispatch_rows(x, d), experts.up_weight->var, {}, d.offsets, d.alignment);
  const Var lengths = row_lengths(first);
  return reshape(gather_rows(reshape(lengths, {d.rows, 1}), d.row_of.reshape({rows * n})), {rows, n});
}

// load_losses() sums over the pairs that are named, so every expert is named in every row that counts.
Var imbalance(const Var& p, const Sequences& q) {
  const Gates all = choose(p, {}, p.size(1), q);
  return rows(load_losses_of(all.gates, all.experts, p.size(1), q), 0, 1);
}

namespace oracle {

OracleRouting choose(const OracleInputs& in, std::vector<double> scores, const std::vector<double>& choice,
                     const std::vector<double>& weights, bool normalise) {
  const auto E = static_cast<size_t>(in.n_experts);
  OracleRouting r;
  r.scores = std::move(scores);
  for (size_t t = 0; t < static_cast<size_t>(in.tokens()); ++t) {
    std::vector<int32_t> chosen = oracle_order(&choice[t * E], in.n_experts);
    chosen.resize(static_cast<size_t>(in.top_k));
    std::vector<double> gates;
    for (const int32_t e : chosen) gates.push_back(weights[t * E + static_cast<size_t>(e)]);
    const double sum = std::accumulate(gates.begin(), gates.end(), 0.0);
    for (double& g : gates)
      if (normalise && sum > 0) g /= sum;
    r.experts.push_back(std::move(chosen));
    r.gates.push_back(std::move(gates));
  }
  return r;
}

OracleRouting choose_finite(const OracleInputs& in, std::vector<double> scores, const std::vector<double>& choice,
                            const std::vector<double>& weights) {
  const auto E = static_cast<size_t>(in.n_experts);
  OracleRouting r;
  r.scores = std::move(scores);
  for (size_t t = 0; t < static_cast<size_t>(in.tokens()); ++t) {
    r.experts.emplace_back();
    r.gates.emplace_back();
    for (const int32_t e : oracle_order(&choice[t * E], in.n_experts)) {
      const size_t at = t * E + static_cast<size_t>(e);
      if (choice[at] == -INFINITY) break;
      r.experts.back().push_back(e);
      r.gates.back().push_back(weights[at]);
    }
  }
  return r;
}

std::vector<double> softmax_rows(const std::vector<double>& x, int64_t n) {
  std::vector<double> p;
  for (size_t i = 0; i < x.size(); i += static_cast<size_t>(n)) {
    const std::vector<double> row = oracle_softmax(&x[i], n);
    p.insert(p.end(), row.begin(), row.end());
  }
  return p;
}

double imbalance(const std::vector<double>& p, int64_t n_experts) {
  const auto E = static_cast<size_t>(n_experts);
  std::vector<double> sums(E);
  for (size_t i = 0; i < p.size(); ++i) sums[i % E] += p[i];
  const double mean = std::accumulate(sums.begin(), sums.end(), 0.0) / static_cast<double>(E);
  double variance = 0;
  for (const double s : sums) variance += (s - mean) * (s - mean) / static_cast<double>(E - 1);
  return variance / (mean * mean + 1e-8);
}

std::vector<double> chosen_mask(const OracleRouting& r, int64_t n_experts) {
  std::vector<double> mask(r.experts.size() * static_cast<size_t>(n_experts));
  for (size_t t = 0; t < r.experts.size(); ++t)
    for (const int32_t e : r.experts[t]) mask[t * static_cast<size_t>(n_experts) + static_cast<size_t>(e)] = 1;
  return mask;
}

}  // namespace oracle
}  // namespace glia
