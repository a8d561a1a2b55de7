#include "moe/routers/beside/wide_choice.h"

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/routing/columns.h"
#include "engine/ops/rows/topk.h"

namespace glia {

WideChoice choose_wide(const Var& logits, int64_t k, const Sequences& q) {
  WideChoice c;
  c.experts = choose(logits.value(), {}, k, q).experts;
  c.kept = scatter_last(constant_rows(q, k, 1, logits.dtype()), c.experts, logits.size(1)).value();
  return c;
}

Routing routing_of(const WideChoice& choice, Var scores, const Var& gates, const Sequences& q) {
  const int64_t n = gates.size(1);
  // ln 0 = −∞ keeps experts out that were not chosen.
  const Tensor order = add(scores.value(), log(columns(choice.kept, 0, n))).value();
  return routing_of(std::move(scores), choose_among(gates, order, std::min(n, choice.experts.size(1)), q), 0);
}

namespace oracle {

std::vector<int32_t> wide_order(const double* logits, int64_t columns, int64_t k) {
  std::vector<int32_t> order = oracle_order(logits, columns);
  order.resize(static_cast<size_t>(k));
  return order;
}

}  // namespace oracle
}  // namespace glia
