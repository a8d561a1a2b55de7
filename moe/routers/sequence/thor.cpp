// THOR-MoE's two levels (Liang et al. 2025): what task a sequence belongs to picks a subset of the experts, and each token
// its own within it, from itself and the sequence's mean.
#include <cmath>
#include <numeric>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/norm/normalise_rows.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/routing/keep.h"
#include "engine/ops/rows/reduce.h"
#include "engine/ops/rows/topk.h"
#include "engine/ops/sequences/sequence_max.h"
#include "moe/losses/losses.h"
#include "moe/routers/parts.h"

namespace glia {
namespace {

const OptionRow kTasks = {"task-count", int64_t{4},
                          "tasks that sequences may belong to: the labels of a classifier", 1, 65536},
                kSubset = {"task-experts", int64_t{0},
                           "experts of a sequence's subset; 0: half of them, K + 1 at least", 0, 65536},
                kTask = {"task-loss", 1e-2, "weight of the cross-entropy of the sequence's task, in training", 0,
                         1e9},
                kBalance = {"task-balance", 1e-2, "weight of CV² of the subsets' probabilities", 0, 1e9};

std::span<const OptionRow> options() {
  static const OptionRow rows[] = {kTasks, kSubset, kTask, kBalance};
  return rows;
}

int64_t subset_of(const OptionValues& own, int64_t n_experts, int64_t top_k) {
  const auto size = own.get<int64_t>(kSubset);
  return size > 0 ? size : std::min(n_experts, std::max(top_k + 1, n_experts / 2));
}

class ThorRouter : public Router {
 public:
  ThorRouter(ParameterSet& set, const std::string& name, const RouterOptions& o)
      : options_(o),
        subset_(subset_of(o.own, o.n_experts, o.top_k)),
        tasks_(o.own.get<int64_t>(kTasks)),
        token_(router_linear(set, name + ".token", o)),
        wanted_(router_linear(set, name + ".subset", o)),
        task_(set, name + ".task", o.hidden, tasks_, o.init_std),
        mixed_(set.add(name + ".embedding", {tasks_, o.hidden}, Init::normal(o.init_std), true)),
        own_(set, name + ".own", o.hidden, o.hidden, o.init_std),
        context_(set, name + ".context", o.hidden, o.hidden, o.init_std) {
    if (subset_ < o.top_k || subset_ > o.n_experts)
      fail_input("router thor: expected --task-experts between top_k {} and the {} experts, got {}", o.top_k,
                 o.n_experts, subset_);
  }

  Routing route(const RoutingInputs& in) const override {
    const Sequences& q = in.pass.sequences;
    const Var x = cast(in.x, token_.weight->var.dtype());
    const auto [task, wanted] = of_sequences(x, q);
    Var scores = linear_scores({blended(x, q), in.pass, in.layer, in.experts}, token_);
    const Tensor kept = sequence_broadcast(subset(wanted), q).value();
    const Var inside = add(scores, kept);
    Gates gates = choose_among(softmax(inside), inside.value(), options_.top_k, q);
    gates.gates = share_rows(gates.gates);
    Routing r = routing_of(std::move(scores), std::move(gates), options_.top_k);
    if (r.n_experts > 1)
      add_loss(r, "task_balance", options_.own.get<double>(kBalance),
               imbalance(sequence_broadcast(softmax(wanted), q), q));
    if (in.pass.training && in.pass.labels.defined())
      add_loss(r, "task", options_.own.get<double>(kTask), task_loss(task, in.pass));
    return r;
  }
  Explanation explain(const RoutingInputs& in) const override {
    const Sequences& q = in.pass.sequences;
    const Var x = cast(in.x, token_.weight->var.dtype());
    const auto [task, wanted] = of_sequences(x, q);
    Explanation e = by_token(linear_scores({blended(x, q), in.pass, in.layer, in.experts}, token_));
    e.allowed = subset(wanted), e.allowed_name = "subset";
    e.of_sequences = {{"task probability", "", 0, softmax(task).value()}, {"subset score", "e", 0, wanted.value()}};
    return e;
  }

 private:
  struct OfSequences {
    Var task, wanted;  // logits of the tasks [B, C], and of the experts of the subset [B, E]
  };
  OfSequences of_sequences(const Var& x, const Sequences& sequences) const {
    Var task = task_(sequence_max(x, sequences));
    Var wanted = wanted_(matmul(softmax(task), mixed_->var));
    return {std::move(task), std::move(wanted)};
  }
  // 0 for the subset's experts, −∞ for the others.     [B, E]
  Tensor subset(const Var& wanted) const { return keep_largest(wanted.value(), subset_, subset_, {}); }
  // g ∘ x + (1 − g) ∘ m, g = σ(W x + V m), m the mean of the sequence's rows.     [T, H]
  Var blended(const Var& x, const Sequences& sequences) const {
    Sequences all = sequences;
    all.key_lengths = {};
    const Var mean = sequence_mean(x, all, false);
    const Var g = sigmoid(add(own_(x), sequence_broadcast(context_(mean), sequences)));
    const Var m = sequence_broadcast(mean, sequences);
    return add(m, mul(g, sub(x, m)));
  }
  // Mean of −ln P of the labels; one that is no task counts as 0.     logits [B, C] → [1]
  Var task_loss(const Var& logits, const Pass& pass) const {
    const int64_t count = pass.sequences.count;
    const Tensor one = scatter_last(full(logits.context(), {count, 1}, 1.0, logits.dtype()),
                                    pass.labels.reshape({count, 1}), tasks_)
                           .value();
    return scale(mean_of_sequences(sum(mul(log_softmax(logits), one), 1), pass.sequences), -1);
  }

  RouterOptions options_;
  int64_t subset_, tasks_;
  Linear token_, wanted_;  // [E, H] of a token, of a sequence's mixed embedding
  Linear task_;            // [C, H]
  Parameter* mixed_;       // of each task [C, H]
  Linear own_, context_;   // [H, H]
};

OracleRouting oracle_of(const OracleInputs& in) {
  const auto E = static_cast<size_t>(in.n_experts), H = static_cast<size_t>(in.hidden);
  const auto subset = static_cast<size_t>(subset_of(in.options, in.n_experts, in.top_k));
  const std::vector<double> embedding = in.weight("embedding");
  std::vector<double> blend(in.x.size()), shares;
  std::vector<std::vector<int32_t>> kept;
  size_t start = 0;
  for (const int32_t length : in.lengths) {
    const size_t end = start + static_cast<size_t>(length);
    std::vector<double> largest(H, -INFINITY), mean(H), mixed(H);
    for (size_t t = start; t < end; ++t)
      for (size_t h = 0; h < H; ++h) {
        largest[h] = std::max(largest[h], in.x[t * H + h]);
        mean[h] += in.x[t * H + h] / length;
      }
    const std::vector<double> task = oracle_linear(largest, in.weight("task.weight"), in.weight("task.bias")),
                              p = oracle_softmax(task.data(), static_cast<int64_t>(task.size()));
    for (size_t i = 0; i < embedding.size(); ++i) mixed[i % H] += p[i / H] * embedding[i];
    const std::vector<double> wanted = oracle_linear(mixed, in.weight("subset.weight"), in.weight("subset.bias")),
                              share = oracle_softmax(wanted.data(), in.n_experts),
                              of_mean = oracle_linear(mean, in.weight("context.weight"), in.weight("context.bias"));
    std::vector<int32_t> order = oracle_order(wanted.data(), in.n_experts);
    order.resize(subset);
    for (size_t t = start; t < end; ++t) {
      const std::vector<double> x(&in.x[t * H], &in.x[t * H] + H),
          own = oracle_linear(x, in.weight("own.weight"), in.weight("own.bias"));
      for (size_t h = 0; h < H; ++h) {
        const double g = 1 / (1 + std::exp(-own[h] - of_mean[h]));
        blend[t * H + h] = g * x[h] + (1 - g) * mean[h];
      }
      shares.insert(shares.end(), share.begin(), share.end());
      kept.push_back(order);
    }
    start = end;
  }
  const std::vector<double> l = oracle_linear(blend, in.weight("token.weight"), in.weight("token.bias"));
  std::vector<double> choice(l.size(), -INFINITY);
  for (size_t t = 0; t < kept.size(); ++t)
    for (const int32_t e : kept[t]) choice[t * E + static_cast<size_t>(e)] = l[t * E + static_cast<size_t>(e)];
  OracleRouting r = oracle::choose(in, l, choice, oracle::map(l, [](double v) { return std::exp(v); }), true);
  r.losses = {oracle::imbalance(shares, in.n_experts)};
  return r;
}

}  // namespace

RouterRow thor_row() {
  RouterRow row = {
      "thor",
      [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
        return std::make_unique<ThorRouter>(set, name, o);
      },
      "P = softmax(W_t max_t x + b_t) over tasks; the m experts with the largest W_s Σ_c P_c e_c + b_s; within them the K "
      "largest of W x' + b, weighed by softmax over the chosen, x' = g ∘ x + (1 − g) ∘ mean(x), g = σ(W_o x + W_c mean(x) + "
      "b). Losses: CV² of the subsets' softmax, the cross-entropy of P",
      "after Liang et al. 2025 (THOR-MoE), which has no code: the weights of the losses are ours, the subset's experts are "
      "weighed as softmax weighs them, and on a classifier the tasks are its labels, read in training alone",
      {.reads_future = true, .needs_labels = true, .linear = false, .weighable = false},
      options(),
      {},
      oracle_of};
  row.labels = &kTasks;
  return row;
}

}  // namespace glia
