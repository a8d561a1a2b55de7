// Null experts (AdaMoE, Zeng et al. 2024): columns beside the experts that compute nothing, so that a token which wants
// fewer experts spends its choices on them.
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/norm/normalise_rows.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/routing/columns.h"
#include "engine/ops/rows/reduce.h"
#include "moe/losses/losses.h"
#include "moe/routers/beside/wide_choice.h"

namespace glia {
namespace {

const OptionRow kNulls = {"null-experts", int64_t{0}, "columns that compute nothing; 0: as many as experts", 0,
                          4096},
                kBalance = {"null-balance", 1e-2, "weight of the balance over experts and null columns", 0, 1e9};

std::span<const OptionRow> options() {
  static const OptionRow rows[] = {kNulls, kBalance};
  return rows;
}

int64_t nulls_of(const OptionValues& own, int64_t n_experts) {
  const auto n = own.get<int64_t>(kNulls);
  return n > 0 ? n : n_experts;
}

class NullExpertsRouter : public Router {
 public:
  NullExpertsRouter(ParameterSet& set, const std::string& name, const RouterOptions& o)
      : options_(o),
        token_(router_linear(set, name + ".token", o)),
        null_(set, name + ".null", o.hidden, nulls_of(o.own, o.n_experts), o.init_std) {}

  Routing route(const RoutingInputs& in) const override {
    const Sequences& q = in.pass.sequences;
    const int64_t n = options_.n_experts, all = n + null_.weight->shape[0];
    Var scores = linear_scores(in, token_);
    const Var logits = join_columns(scores, linear_scores(in, null_));
    const WideChoice c = choose_wide(logits, options_.top_k, q);
    // Shares among the chosen experts do not depend on the null columns' logits, nor then does their rounding.
    const Var gates = share_rows(mul(softmax(scores), columns(c.kept, 0, n)));
    Routing r = routing_of(c, std::move(scores), gates, q);
    r.matrix = token_.weight->var;
    r.other_choices = reshape(sum(columns(c.kept, n, all), 1), {c.kept.size(0), 1}).value();
    r.other_gates = zeros(in.context(), r.other_choices.shape(), r.other_choices.dtype());
    const Tensor counts = expert_counts(c.experts, all, logits.dtype());
    add_loss(r, "null_balance", options_.own.get<double>(kBalance),
             switch_loss_of(logits, even_nulls(counts), options_.top_k, q));
    return r;
  }
  Explanation explain(const RoutingInputs& in) const override { return by_token(linear_scores(in, token_)); }

 private:
  // The null columns are one: which of them is chosen is nothing to balance.     counts [E + m]
  Tensor even_nulls(const Tensor& counts) const {
    const int64_t n = options_.n_experts, m = counts.numel() - n;
    const Var row = reshape(counts, {1, n + m});
    const Tensor mean = full(counts.context(), {m, m}, 1.0 / static_cast<double>(m), counts.dtype());
    return join_columns(columns(row, 0, n), matmul(columns(row, n, n + m), mean)).value().reshape({n + m});
  }

  RouterOptions options_;
  Linear token_, null_;  // [E, H], [m, H]
};

OracleRouting oracle_of(const OracleInputs& in) {
  const auto E = static_cast<size_t>(in.n_experts), m = static_cast<size_t>(nulls_of(in.options, in.n_experts));
  const auto T = static_cast<size_t>(in.tokens()), C = E + m;
  OracleRouting r;
  r.scores = oracle_linear(in.x, in.weight("token.weight"), in.weight("token.bias"));
  const std::vector<double> null = oracle_linear(in.x, in.weight("null.weight"), in.weight("null.bias"));
  std::vector<double> count(C), mass(C);
  for (size_t t = 0; t < T; ++t) {
    std::vector<double> row(&r.scores[t * E], &r.scores[t * E] + E);
    row.insert(row.end(), &null[t * m], &null[t * m] + m);
    const std::vector<double> p = oracle_softmax(row.data(), static_cast<int64_t>(C));
    double chosen_null = 0, sum = 0;
    r.experts.emplace_back(), r.gates.emplace_back();
    for (const int32_t e : oracle::wide_order(row.data(), static_cast<int64_t>(C), in.top_k)) {
      count[size_t(e)] += 1;
      if (size_t(e) >= E) {
        chosen_null += 1;
        continue;
      }
      r.experts.back().push_back(e);
      r.gates.back().push_back(p[size_t(e)]);
      sum += p[size_t(e)];
    }
    for (double& g : r.gates.back()) g /= sum;
    r.other_choices.push_back(chosen_null);
    for (size_t c = 0; c < C; ++c) mass[c] += p[c];
  }
  r.other_gates.resize(T);
  double nulls = 0, loss = 0;
  for (size_t c = E; c < C; ++c) nulls += count[c] / static_cast<double>(m);
  for (size_t c = 0; c < C; ++c) loss += (c < E ? count[c] : nulls) * mass[c];
  const auto rows = static_cast<double>(T);
  r.losses = {loss * static_cast<double>(C) / (rows * rows * static_cast<double>(in.top_k))};
  return r;
}

}  // namespace

RouterRow null_experts_row() {
  static constexpr const char* kColumns[] = {"null"};
  return {
      "null-experts",
      [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
        return std::make_unique<NullExpertsRouter>(set, name, o);
      },
      "P = softmax over E experts and m null columns of W x + b; the K largest of all; gates P over the chosen "
      "experts, divided by their sum; a token that chose nulls alone has none. Loss (E + m) · Σ f_i P_i with the mean f "
      "of the null columns for each of them",
      "Zeng et al. 2024, arXiv 2406.13233 (AdaMoE); its null rows start as copies of a trained router's, and its "
      "released balance leaves the null columns out. With m = E its K is twice the experts a token has where loads "
      "are even",
      {.gates_sum_to_one = false, .fixed_k = false, .shares = true, .weighable = false},
      options(),
      {},
      oracle_of,
      [](const RouterOptions& o) {
        const auto n = static_cast<double>(o.n_experts), m = static_cast<double>(nulls_of(o.own, o.n_experts));
        return static_cast<double>(o.top_k) * n / (n + m);
      },
      kColumns};
}

}  // namespace glia
