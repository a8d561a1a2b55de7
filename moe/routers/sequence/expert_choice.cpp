// Expert Choice (Zhou et al. 2022) within each sequence: every expert takes the tokens for which its probability is
// largest, so loads are even by construction; a token may have several experts, or none.
#include <cmath>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/routing/keep.h"
#include "moe/routers/parts.h"

namespace glia {
namespace {

class ExpertChoiceRouter : public Router {
 public:
  ExpertChoiceRouter(ParameterSet& set, const std::string& name, const RouterOptions& o)
      : top_k_(o.top_k),
        share_(static_cast<double>(o.top_k) / static_cast<double>(o.n_experts)),
        token_(router_linear(set, name + ".token", o)) {}

  Routing route(const RoutingInputs& in) const override {
    const Sequences& sequences = in.pass.sequences;
    Var scores = linear_scores(in, token_);
    const Var p = softmax(scores);
    Gates gates = choose_among(p, keep_top_rows(p.value(), share_, sequences), p.size(1), sequences);
    Routing r = routing_of(std::move(scores), std::move(gates), 0);
    r.matrix = token_.weight->var;
    r.capacity = std::min(p.value().numel(), in.x.size(0) * top_k_ + sequences.count * p.size(1));
    return r;
  }

 private:
  int64_t top_k_;
  double share_;  // of a sequence's tokens that each expert takes: K / E
  Linear token_;
};

OracleRouting oracle_of(const OracleInputs& in) {
  const auto E = static_cast<size_t>(in.n_experts);
  const auto l = oracle_linear(in.x, in.weight("token.weight"), in.weight("token.bias"));
  const std::vector<double> p = oracle::softmax_rows(l, in.n_experts);
  std::vector<double> choice(p.size(), -INFINITY);
  size_t start = 0;
  for (const int32_t length : in.lengths) {
    const auto places = std::max<size_t>(1, static_cast<size_t>(length * in.top_k / in.n_experts));
    for (size_t e = 0; e < E; ++e) {
      std::vector<double> column;
      for (size_t t = start; t < start + static_cast<size_t>(length); ++t) column.push_back(p[t * E + e]);
      const std::vector<int32_t> order = oracle_order(column.data(), length);
      for (size_t i = 0; i < std::min(places, column.size()); ++i) {
        const size_t at = (start + static_cast<size_t>(order[i])) * E + e;
        choice[at] = p[at];
      }
    }
    start += static_cast<size_t>(length);
  }
  return oracle::choose_finite(in, l, choice, p);
}

}  // namespace

RouterRow expert_choice_row() {
  return {
      "expert-choice",
      [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
        return std::make_unique<ExpertChoiceRouter>(set, name, o);
      },
      "P = softmax(W x + b); each expert takes the max(1, ⌊length · K / E⌋) tokens of the sequence with its largest P, "
      "weighed by P",
      "Zhou et al. 2022, arXiv 2202.09368; there over the whole batch, here within a sequence, so that evaluation does "
      "not depend on who else is in the batch",
      {.gates_sum_to_one = false, .fixed_k = false, .reads_future = true, .weighable = false},
      {},
      {},
      oracle_of};
}

}  // namespace glia
