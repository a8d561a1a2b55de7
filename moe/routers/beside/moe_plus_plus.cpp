// MoE++ (Jin et al. 2024): beside the FFNs experts that cost next to nothing: one that gives 0, one that copies its
// input, two that blend it with a vector of their own. Logits add what the layer before had.
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

const OptionRow kBalance = {"cheap-balance", 1e-2, "weight of the balance over all columns", 0, 1e9},
                kCheapShare = {"cheap-share", 0.75, "η of a column that is no FFN, in that balance; 1 of an FFN", 0,
                               1e3};

std::span<const OptionRow> options() {
  static const OptionRow rows[] = {kBalance, kCheapShare};
  return rows;
}

constexpr const char* kColumns[] = {"zero", "copy", "constant 1", "constant 2"};
constexpr int64_t kOthers = 4, kConstants = 2;

class MoePlusPlusRouter : public Router {
 public:
  MoePlusPlusRouter(ParameterSet& set, const std::string& name, const RouterOptions& o)
      : options_(o),
        token_(set, name + ".token", o.hidden, o.n_experts + kOthers, o.init_std),
        before_(set.add(name + ".before", {o.n_experts + kOthers, o.n_experts + kOthers}, Init::normal(o.init_std),
                        true)),
        blend_(set, name + ".blend", o.hidden, kConstants * 2, o.init_std),
        constants_(set.add(name + ".constants", {kConstants, o.hidden}, Init::normal(1), true)) {}

  Routing route(const RoutingInputs& in) const override {
    const Sequences& q = in.pass.sequences;
    const int64_t n = options_.n_experts, all = n + kOthers;
    const Var logits = logits_of(in);
    const WideChoice c = choose_wide(logits, options_.top_k, q);
    const Var open = mul(softmax(logits), c.kept);
    // The zero expert's gate is 0 before the others are divided by their sum; a token with nothing else keeps nothing.
    const Tensor none = zeros(in.context(), {logits.size(0), 1}, logits.dtype());
    const Var gates = share_rows(join_columns(join_columns(columns(open, 0, n), none), columns(open, n + 1, all)));
    Routing r = routing_of(c, columns(logits, 0, n), columns(gates, 0, n), q);
    r.all_scores = logits;
    r.matrix = rows(token_.weight->var, 0, n);
    r.other_choices = columns(c.kept, n, all).value();
    r.other_gates = columns(gates.value(), n, all).value();
    r.beside = beside(in, gates);
    add_loss(r, "cheap_balance", options_.own.get<double>(kBalance), balance(c, logits, q));
    return r;
  }
  Explanation explain(const RoutingInputs& in) const override {
    return by_token(columns(logits_of(in), 0, options_.n_experts));
  }

 private:
  Var logits_of(const RoutingInputs& in) const {
    const Var own = linear_scores(in, token_), &before = in.pass.previous_scores;
    if (!before.defined()) return own;
    CHECK(before.shape() == own.shape(),
          "router moe-plus-plus: wants the layer before to have its {} columns, got {}", own.size(1),
          before.size(1));
    return add(own, matmul(before, before_->var, false, true));
  }
  // g_copy x + Σ_j g_j (a_j1 x + a_j2 v_j), a_j = softmax of two numbers that the token gives.     gates [T, E + 4]
  Var beside(const RoutingInputs& in, const Var& gates) const {
    const int64_t n = options_.n_experts, tokens = gates.size(0);
    const Var parts = softmax(reshape(linear_scores(in, blend_), {tokens * kConstants, 2})),
              g = columns(gates, n + 2, n + kOthers);  // of the constant experts [T, 2]
    const auto part = [&](int64_t i) { return mul(g, reshape(columns(parts, i, i + 1), {tokens, kConstants})); };
    const Var of_x = add(columns(gates, n + 1, n + 2), reshape(sum(part(0), 1), {tokens, 1}));
    return add(scale_rows(in.x, of_x), cast(matmul(part(1), constants_->var), in.x.dtype()));
  }
  Var balance(const WideChoice& c, const Var& logits, const Sequences& q) const {
    const int64_t n = options_.n_experts, all = n + kOthers, k = options_.top_k;
    const Var counts = reshape(expert_counts(c.experts, all, logits.dtype()), {1, all});
    const Var weighed =
        join_columns(columns(counts, 0, n), scale(columns(counts, n, all), options_.own.get<double>(kCheapShare)));
    // switch_loss_of() divides by K and multiplies by the number of columns, which this loss does not.
    return scale(switch_loss_of(logits, weighed.value().reshape({all}), k, q),
                 static_cast<double>(k) / static_cast<double>(all));
  }

  RouterOptions options_;
  Linear token_;          // [E + 4, H]
  Parameter* before_;     // G [E + 4, E + 4] of the layer before's logits
  Linear blend_;          // [2 · 2, H]: two numbers of each constant expert
  Parameter* constants_;  // v [2, H]
};

OracleRouting oracle_of(const OracleInputs& in) {
  const auto E = static_cast<size_t>(in.n_experts), H = static_cast<size_t>(in.hidden), C = E + kOthers;
  const auto T = static_cast<size_t>(in.tokens());
  const std::vector<double> l = oracle_linear(in.x, in.weight("token.weight"), in.weight("token.bias")),
                            a = oracle_linear(in.x, in.weight("blend.weight"), in.weight("blend.bias")),
                            v = in.weight("constants");
  OracleRouting r;
  std::vector<double> count(C), mass(C);
  r.beside.resize(T * H), r.other_choices.resize(T * kOthers), r.other_gates.resize(T * kOthers);
  for (size_t t = 0; t < T; ++t) {
    r.scores.insert(r.scores.end(), &l[t * C], &l[t * C] + E);
    const std::vector<double> p = oracle_softmax(&l[t * C], static_cast<int64_t>(C));
    const std::vector<int32_t> order = oracle::wide_order(&l[t * C], static_cast<int64_t>(C), in.top_k);
    double sum = 0;
    for (const int32_t e : order) sum += size_t(e) == E ? 0 : p[size_t(e)];
    r.experts.emplace_back(), r.gates.emplace_back();
    for (const int32_t e : order) {
      const auto i = static_cast<size_t>(e);
      const double g = i == E || sum == 0 ? 0 : p[i] / sum;
      count[i] += i < E ? 1 : in.options.get<double>(kCheapShare);
      if (i < E) r.experts.back().push_back(e), r.gates.back().push_back(g);
      else r.other_choices[t * kOthers + i - E] = 1, r.other_gates[t * kOthers + i - E] = g;
      const double *two = &a[t * 4 + (i == E + 3 ? 2 : 0)], *x = &in.x[t * H];
      const std::vector<double> part = oracle_softmax(two, 2);
      for (size_t h = 0; i > E && h < H; ++h)
        r.beside[t * H + h] += g * (i == E + 1 ? x[h] : part[0] * x[h] + part[1] * v[(i - E - 2) * H + h]);
    }
    for (size_t c = 0; c < C; ++c) mass[c] += p[c];
  }
  double loss = 0;
  for (size_t c = 0; c < C; ++c) loss += count[c] * mass[c] / static_cast<double>(T * T);
  r.losses = {loss};
  return r;
}

}  // namespace

RouterRow moe_plus_plus_row() {
  return {
      "moe-plus-plus",
      [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
        return std::make_unique<MoePlusPlusRouter>(set, name, o);
      },
      "l = W x + b + G · l of the layer before, over E FFNs and a zero, a copy and two constant experts (a_1 x + a_2 v, a "
      "= softmax(W_c x + b_c)); the K largest, weighed by softmax(l) with 0 for the zero expert, divided by their sum. "
      "Loss Σ η_i f_i P_i, η = 1 of an FFN, f_i = tokens that chose i / T",
      "Jin et al. 2024, arXiv 2410.07348, and its released code; its W and W_c have no bias, and by that code's defaults W is "
      "two layers with a tanh between them and the experts read K x",
      {.gates_sum_to_one = false,
       .fixed_k = false,
       .experts_permutable = false,
       .shares = true,
       .weighable = false},
      options(),
      {},
      oracle_of,
      [](const RouterOptions& o) {
        const auto n = static_cast<double>(o.n_experts);
        return static_cast<double>(o.top_k) * n / (n + kOthers);
      },
      kColumns};
}

}  // namespace glia
