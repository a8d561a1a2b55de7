// PMoE (Ren et al. 2021) for a layer inside a model: the router learns to name the expert that does best. Which one that is
// they know from the whole model's loss with each expert in turn, one pass an expert; here each layer has a small classifier
// of its own that says how much of the sequence's label an expert's output alone tells.
#include <cmath>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/ranks/sum_over_ranks.h"
#include "engine/ops/rows/reduce.h"
#include "engine/ops/rows/topk.h"
#include "moe/mixtures/mixture_parts.h"
#include "moe/routers/parts.h"

namespace glia {
namespace {

const OptionRow kFrequency = {"frequency-loss", 1.0,
                              "weight of the mean of (best_e − w_e)², in training with labels", 0, 1e9},
                kSkill = {"skill-loss", 1e-2,
                          "weight of that classifier's cross-entropy on the best expert's output", 0, 1e9},
                kLabels = {"label-count", int64_t{4}, "labels that the layer's own classifier tells apart", 1,
                           65536};

std::span<const OptionRow> options() {
  static const OptionRow rows[] = {kFrequency, kSkill, kLabels};
  return rows;
}

class PMoeRouter : public Router {
 public:
  PMoeRouter(ParameterSet& set, const std::string& name, const RouterOptions& o)
      : options_(o),
        labels_(o.own.get<int64_t>(kLabels)),
        token_(router_linear(set, name + ".token", o)),
        skill_(set, name + ".skill", o.hidden, labels_, o.init_std) {}

  Routing route(const RoutingInputs& in) const override {
    const Sequences& q = in.pass.sequences;
    const int64_t n = options_.n_experts;
    Var scores = linear_scores(in, token_);
    Gates gates = top_k_gates(scores, options_.top_k, q);
    Routing r = routing_of(std::move(scores), std::move(gates), options_.top_k);
    r.matrix = token_.weight->var;
    if (!in.pass.training || !in.pass.labels.defined() || n < 2) return r;
    const Var loss = expert_losses(in);  // [T, E]
    const DType type = loss.dtype();
    const Tensor best = top_k(scale(loss, -1).value(), 1).indices, real = constant_rows(q, n, 1, type),
                 one = scatter_last(full(in.context(), {loss.size(0), 1}, 1.0, type), best, n).value();
    const Var missed = sub(softmax(r.scores), one);
    add_loss(r, "frequency", options_.own.get<double>(kFrequency),
             scale(mean_of(mul(square(missed), real), q), 1.0 / static_cast<double>(n)));
    add_loss(r, "skill", options_.own.get<double>(kSkill), mean_of(mul(loss, mul(one, real).value()), q));
    return r;
  }
  Explanation explain(const RoutingInputs& in) const override { return by_token(linear_scores(in, token_)); }

 private:
  // The sum over everything by the number of real rows.     → [1]
  Var mean_of(const Var& x, const Sequences& q) const {
    return over_ranks(reshape(div(sum(x), real_rows(q, x.dtype())), {1}), q);
  }

  // −ln P of its sequence's label from what each expert makes of each token. The classifier alone learns from it: experts that
  // pleased it would please nobody else.     → [T, E], 0 in the tail
  Var expert_losses(const RoutingInputs& in) const {
    CHECK(in.experts, "router pmoe: wants a layer's experts");
    const Sequences& q = in.pass.sequences;
    const int64_t rows = in.x.size(0), n = options_.n_experts;
    const DType type = token_.weight->var.dtype();
    const Gates all = choose(full(in.context(), {rows, n}, 1.0, type), {}, n, q);
    const Experts& e = *in.experts;
    Var told;  // [T E, C]
    {
      const NoGrad no_grad(in.context());
      const Dispatch d = dispatch_of(e, in.x, {all.gates, all.experts});
      const Var said = expert_ffn(dispatch_rows(in.x, d), e.up_weight->var, e.up_bias->var, e.down_weight->var,
                                  e.down_bias->var, d.offsets);
      told = cast(gather_rows(said, d.row_of.reshape({rows * n})), type);
    }
    told = log_softmax(skill_(told));
    const Tensor label =
        scatter_last(full(in.context(), {q.count, 1}, -1.0, type), in.pass.labels.reshape({q.count, 1}), labels_)
            .value();
    const Tensor of_token = sequence_broadcast(label, q).value().reshape({rows, labels_, 1});
    // choose() names the experts of constant scores in their order.
    return reshape(matmul(reshape(told, {rows, n, labels_}), of_token), {rows, n});
  }

  RouterOptions options_;
  int64_t labels_;
  Linear token_, skill_;  // [E, H], [C, H]
};

OracleRouting oracle_of(const OracleInputs& in) { return oracle_top_k(in, OracleContext::kNone); }

}  // namespace

RouterRow pmoe_row() {
  RouterRow row = {
      "pmoe",
      [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
        return std::make_unique<PMoeRouter>(set, name, o);
      },
      "w = softmax(W x + b); softmax over the K largest. In training every expert runs; best = the one whose output alone "
      "gives the sequence's label the largest probability, softmax(V Expert_e(x) + c). Losses: mean of (onehot(best) − w)², "
      "and −ln P of the best, which trains V and c",
      "after Ren et al. 2021 (PMoE); there a pass of the whole model for each expert says which is best, that one alone is "
      "trained, the first loss alone trains the router, and one expert is drawn from w to act. Here a layer's own classifier "
      "says it, so labels are read in training and E experts run there; the task trains the chosen experts and, through "
      "their gates, the router too; the weight 0.01 of the second loss is ours",
      {.needs_labels = true, .reads_experts = true},
      options(),
      {},
      oracle_of};
  row.labels = &kLabels;
  return row;
}

}  // namespace glia
