#include "moe/losses/losses.h"

#include <cmath>
#include <limits>
#include <memory>
#include <optional>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/row_losses.h"
#include "engine/ops/moe/choose.h"
#include "engine/ops/moe/load_losses.h"
#include "engine/ops/moe/moe.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/ranks/sum_over_ranks.h"
#include "engine/ops/rows/reduce.h"
#include "engine/ops/rows/topk.h"

namespace glia {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

OptionRow weight(const char* name, const char* help) { return {name, 0.0, help, 0, kInfinity}; }

Var load(const LossInputs& from) {
  const Routing& r = from.routing;
  if (r.load_losses.defined() && !several_ranks(r.scores)) return r.load_losses;
  return load_losses_of(r.gates, r.experts, r.n_experts, from.in.pass.sequences);
}

std::vector<Var> loads(const std::vector<LossInputs>& layers) {
  std::vector<LayerImportance> all;
  std::vector<LayerPairs> pairs;  // of those whose routers have not said what they added up
  for (const LossInputs& l : layers) {
    const Routing& r = l.routing;
    all.push_back({r.importance, &l.in.pass.sequences});
    if (!r.importance.defined()) pairs.push_back({r.gates, r.experts});
  }
  std::vector<Var> added_up = importance_of_layers(pairs, layers[0].routing.n_experts);
  auto next = added_up.begin();
  for (LayerImportance& layer : all)
    if (!layer.importance.defined()) layer.importance = std::move(*next++);
  return load_losses_over_ranks(all);
}

std::vector<double> load_oracle(const OracleRouting& r, int64_t n_experts, int64_t) {
  const auto E = static_cast<double>(n_experts);
  std::vector<double> importance(static_cast<size_t>(n_experts));
  double mean = 0, variance = 0, energy = 0;
  for (size_t t = 0; t < r.experts.size(); ++t)
    for (size_t k = 0; k < r.experts[t].size(); ++k) importance[size_t(r.experts[t][k])] += r.gates[t][k];
  for (const double i : importance) mean += i / E;
  for (const double i : importance) {
    const double share = i / static_cast<double>(r.experts.size());
    variance += (i - mean) * (i - mean) / (E - 1);
    energy += share * share;
  }
  return {variance / (mean * mean + 1e-8), energy};
}

Var mean_over_ranks(Var (*loss)(const Var&, const Sequences&), const LossInputs& from) {
  return over_ranks(loss(from.routing.scores, from.in.pass.sequences), from.in.pass.sequences);
}

Var switched(const LossInputs& from) {
  const Routing& r = from.routing;
  return switch_loss_of(r.scores, expert_counts(r.experts, r.n_experts, r.scores.dtype()),
                        std::max<int64_t>(1, r.chosen), from.in.pass.sequences);
}

// f(P, row's share) averaged over the tokens.
template <class F> double mean_over_rows(const OracleRouting& r, int64_t n_experts, F f) {
  double sum = 0;
  for (size_t t = 0; t < r.experts.size(); ++t) sum += f(&r.scores[t * static_cast<size_t>(n_experts)]);
  return sum / static_cast<double>(r.experts.size());
}

std::vector<double> z_oracle(const OracleRouting& r, int64_t n_experts, int64_t) {
  return {mean_over_rows(r, n_experts, [&](const double* row) {
    double sum = 0;
    for (int64_t e = 0; e < n_experts; ++e) sum += std::exp(row[e]);
    return std::log(sum) * std::log(sum);
  })};
}

std::vector<double> entropy_oracle(const OracleRouting& r, int64_t n_experts, int64_t) {
  return {mean_over_rows(r, n_experts, [&](const double* row) {
    double sum = 0;
    for (const double p : oracle_softmax(row, n_experts)) sum -= p * std::log(p);
    return sum;
  })};
}

// |x| with the derivative 0 at 0.
Var magnitude(const Var& x) { return add(relu(x), relu(scale(x, -1))); }

Var similarity(const LossInputs& from) {
  const Routing& r = from.routing;
  const int64_t E = r.n_experts;
  const Tensor one = identity(r.matrix.context(), E, r.matrix.dtype());
  return reshape(sum(magnitude(sub(matmul(r.matrix, r.matrix, false, true), one))), {1});
}

std::vector<double> similarity_oracle(const OracleRouting& r, int64_t n_experts, int64_t) {
  const size_t E = static_cast<size_t>(n_experts), H = r.matrix.size() / E;
  double sum = 0;
  for (size_t i = 0; i < E; ++i)
    for (size_t j = 0; j < E; ++j) {
      double dot = i == j ? -1 : 0;
      for (size_t h = 0; h < H; ++h) dot += r.matrix[i * H + h] * r.matrix[j * H + h];
      sum += std::abs(dot);
    }
  return {sum};
}

}  // namespace

// Each in expert_losses.cpp or balance_losses.cpp.
LossRow orthogonality_row(), coupling_row(), variance_row(), global_balance_row();

std::vector<double> switch_oracle(const OracleRouting& r, int64_t n_experts, int64_t per_token) {
  std::vector<double> f(static_cast<size_t>(n_experts));
  for (const auto& experts : r.experts)
    for (const int32_t e : experts) f[size_t(e)] += 1.0 / static_cast<double>(r.experts.size()) / double(per_token);
  return {static_cast<double>(n_experts) * mean_over_rows(r, n_experts, [&](const double* row) {
            const std::vector<double> p = oracle_softmax(row, n_experts);
            double sum = 0;
            for (size_t e = 0; e < p.size(); ++e) sum += f[e] * p[e];
            return sum;
          })};
}

bool several_ranks(const Var& x) { return x.context().communicator().size() > 1; }

Var over_ranks(const Var& mean, const Sequences& s) {
  if (!several_ranks(mean)) return mean;
  return sum_over_ranks(mul(mean, share_of_rows(s, mean.dtype(), 1)));
}

// A batch may end in sequences of no rows. Factors of 1 where there are none.
Var mean_of_sequences(const Var& x, const Sequences& s) {
  Tensor real, share;  // [B], 1 or 0, and [1]
  {
    const NoGrad no_grad(x.context());
    real = first_rows(full(x.context(), {s.tokens, 1}, 1, x.dtype()), s).value().reshape({s.count});
    const Tensor count = full(x.context(), {1}, static_cast<double>(s.count), x.dtype());
    share = div(count, sum_over_ranks(reshape(sum(real), {1}))).value();
  }
  return sum_over_ranks(mul(reshape(mean(mul(x, real)), {1}), share));
}

Var load_losses_of(const Var& gates, const Tensor& experts, int64_t n_experts, const Sequences& s) {
  Loads own = loads_of(gates, experts, n_experts, s);
  return several_ranks(gates) ? load_losses_over_ranks({{std::move(own.importance), &s}})[0] : own.losses;
}

Tensor identity(Context& context, int64_t n, DType dtype) {
  const Tensor one = full(context, {n, 1}, 1.0, dtype);
  const Tensor numbers =
      top_k(one.reshape({1, n}), n).indices.reshape({n, 1});  // 0 … n − 1: of equals the lower first
  return scatter_last(one, numbers, n).value();
}

// f is that of all ranks' rows: switch_loss divides by this rank's.
Var switch_loss_of(const Var& scores, Tensor counts, int64_t per_token, const Sequences& s) {
  if (several_ranks(scores)) {
    const NoGrad no_grad(scores.context());
    counts = mul(sum_over_ranks(counts), share_of_rows(s, counts.dtype(), counts.numel())).value();
  }
  return over_ranks(switch_loss(scores, counts, per_token, s), s);
}

const std::vector<LossRow>& loss_registry() {
  static const std::vector<LossRow> rows = {
      {{"balance", "energy"},
       {weight("balance", "weight α of the balance loss"), weight("energy", "weight β of the energy loss")},
       true,
       "importance_e = Σ_t g_te; var(importance, ddof 1) / (mean(importance)² + 1e-8), and Σ_e (importance_e / T)²",
       "balance: Shazeer et al. 2017, arXiv 1701.06538 (importance); energy: Astrocyte-Inspired Hierarchical Routing "
       "(docs/science.md 1)",
       "as AHR's code has them; Shazeer's divides by mean² + 1e-10 in the released code. Where gates sum to 1, energy is 1/E + "
       "(E − 1)/E² · balance and nothing else (docs/science.md 6.1)",
       load,
       load_oracle,
       LossReads::kRouting,
       loads},
      {{"z"},
       {weight("z-loss", "weight of the router z-loss; 1e-3 in its paper")},
       false,
       "mean of logsumexp(l)²",
       "Zoph et al. 2022, arXiv 2202.08906 (ST-MoE), eq. 5",
       "in nothing; with routers whose scores are logarithms of probabilities it is 0",
       [](const LossInputs& from) { return mean_over_ranks(z_loss, from); },
       z_oracle},
      {{"switch"},
       {weight("switch-loss", "weight of the loss E · Σ f_e P_e; 1e-2 in its paper")},
       false,
       "E · Σ_e f_e P_e, P = softmax(l), f_e = pairs of e / (T · K), or / T where K varies; f without gradient",
       "Fedus et al. 2022, arXiv 2101.03961 (Switch), eq. 4, for K = 1",
       "with K experts f is divided by K, so that an even load has the value 1 whatever K is; others leave that out, and "
       "have K there. P is the softmax of the scores whatever the router makes of them",
       switched,
       switch_oracle},
      {{"entropy"},
       {weight("entropy-loss", "weight of the entropy of each token's P; 1e-4 in its paper")},
       false,
       "mean of −Σ_e P_e ln P_e, P = softmax(l)",
       "Huang et al. 2024, arXiv 2403.07652, eq. 6",
       "in nothing; its released code has no such loss",
       [](const LossInputs& from) { return mean_over_ranks(entropy_loss, from); },
       entropy_oracle},
      {{"simbal"},
       {weight("simbal-loss", "weight of SimBal's loss on the router's matrix; 0.1 in its paper")},
       false,
       "Σ_ij |W Wᵀ − I|_ij over pairs of experts: tokens keep their distances",
       "Omi et al. 2025, arXiv 2506.14038 (SimBal)",
       "there W starts orthogonal, here as the router draws it; the router's bias is no part of it",
       similarity,
       similarity_oracle,
       LossReads::kMatrix},
      variance_row(),
      global_balance_row(),
      orthogonality_row(),
      coupling_row(),
  };
  return rows;
}

namespace {

// `router`: nullptr for any.
std::vector<OptionRow> further(const RouterRow* router, bool weights_alone) {
  std::vector<OptionRow> all;
  for (const LossRow& row : loss_registry()) {
    if (row.always || (router && row.of_matrix() && !router->traits.linear)) continue;
    all.insert(all.end(), row.weights.begin(), row.weights.end());
    if (!weights_alone) all.insert(all.end(), row.options.begin(), row.options.end());
  }
  return all;
}

}  // namespace

std::vector<OptionRow> further_loss_weights() { return further(nullptr, true); }
std::vector<OptionRow> further_loss_weights(const RouterRow& router) { return further(&router, true); }
std::vector<OptionRow> further_loss_options() { return further(nullptr, false); }
std::vector<OptionRow> further_loss_options(const RouterRow& router) { return further(&router, false); }

OptionValues loss_weights(const RouterRow& router, const OptionValues& given) {
  OptionValues weights;
  for (const LossRow& row : loss_registry()) {
    bool weighed = row.always;
    for (const OptionRow& option : row.weights) {
      OptionValue value = option.standard;
      for (const LossDefault& d : router.losses)
        if (std::string_view(d.option) == option.name) value = d.weight;
      if (given.contains(option.name)) value = given.get<double>(option);
      check_option(option, value);
      if (row.of_matrix() && !router.traits.linear && value != OptionValue(0.0))
        fail_input("--{}: expected a router whose scores are linear in the token, got {}", option.name,
                   router.name);
      weighed = weighed || value != OptionValue(0.0);
      weights.set(option.name, value);
    }
    for (const OptionRow& option : row.options) {
      const OptionValue value = given.contains(option.name) ? given.all().at(option.name) : option.standard;
      check_option(option, value);
      if (!weighed && value != option.standard)
        fail_input("--{}: expected --{} above 0 with it, got {} and 0", option.name, row.weights[0].name,
                   option_text(value));
      weights.set(option.name, value);
    }
  }
  return weights;
}

bool any_loss_reads(LossReads what, const OptionValues& weights) {
  for (const LossRow& row : loss_registry())
    for (const OptionRow& option : row.weights)
      if (row.reads == what && weights.get<double>(option) != 0) return true;
  return false;
}

// What LossInputs refers to, for losses that are formed later.
struct KeptInputs {
  KeptInputs(const Routing& r, const RoutingInputs& i, const ExpertPairs* p, const OptionValues& o)
      : routing(r), x(i.x), pass(i.pass), in{x, pass, i.layer, i.experts, i.counted}, options(o) {
    if (p) pairs = *p;
  }
  KeptInputs(const KeptInputs&) = delete;
  LossInputs inputs() const { return {routing, in, pairs ? &*pairs : nullptr, options}; }

  Routing routing;
  Var x;
  Pass pass;
  RoutingInputs in;
  std::optional<ExpertPairs> pairs;
  OptionValues options;
};

std::function<Var()> LaterLosses::add(const LossRow& row, std::shared_ptr<const KeptInputs> inputs) {
  OfRow& of_row = rows_[&row];
  of_row.layers.push_back(std::move(inputs));
  if (!row.of_layers) return [&row, kept = of_row.layers.back()] { return row.compute(kept->inputs()); };
  return [&row, &of_row, at = of_row.layers.size() - 1] {
    if (of_row.values.empty()) {
      std::vector<LossInputs> layers;
      for (const auto& kept : of_row.layers) layers.push_back(kept->inputs());
      of_row.values = row.of_layers(layers);
    }
    return of_row.values[at];
  };
}

void attach_losses(Routing& routing, const OptionValues& weights, const RoutingInputs& in,
                   const ExpertPairs* pairs) {
  if (routing.n_experts < 2) return;  // the variance of one number is 0 / 0
  std::shared_ptr<const KeptInputs> kept;
  for (const LossRow& row : loss_registry()) {
    if ((row.reads == LossReads::kExperts && !in.experts) || (row.reads == LossReads::kOutputs && !pairs)) continue;
    AuxiliaryLosses losses{row.names, {}, {}};
    bool wanted = row.always;
    for (const OptionRow& option : row.weights) {
      losses.weights.push_back(weights.get<double>(option));
      wanted = wanted || losses.weights.back() != 0;
    }
    if (!wanted) continue;
    if (in.pass.later && several_ranks(in.x)) {
      if (!kept) kept = std::make_shared<KeptInputs>(routing, in, pairs, weights);
      losses.later = in.pass.later->add(row, kept);
    } else {
      losses.values = row.compute({routing, in, pairs, weights});
    }
    routing.losses.push_back(std::move(losses));
  }
}

}  // namespace glia
