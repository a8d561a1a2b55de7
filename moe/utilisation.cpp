#include "moe/utilisation.h"

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/statistics.h"
#include "engine/ops/moe/choose.h"
#include "engine/ops/norm/normalise_rows.h"
#include "engine/ops/routing/columns.h"
#include "engine/ops/rows/reduce.h"
#include "engine/ops/rows/topk.h"

namespace glia {

Utilisation::Utilisation(Context& context, int64_t layers, int64_t classes, int64_t n_experts, bool shares,
                         int64_t columns)
    : columns_(columns), sums_(zeros(context, {layers, 2, classes, n_experts + 1}, DType::kFloat64)) {
  if (shares) shares_ = zeros(context, {layers, 2, 2, classes, n_experts + columns + 3}, DType::kFloat64);
}

void Utilisation::add(const std::vector<Routing>& routings, const Tensor& labels, const Sequences& sequences) {
  CHECK(static_cast<int64_t>(routings.size()) == sums_.size(0), "utilisation: wants {} layers, got {}",
        sums_.size(0), routings.size());
  const Shape one = sums_.shape().without(0);
  for (int64_t l = 0; l < sums_.size(0); ++l) {
    const Routing& r = routings[static_cast<size_t>(l)];
    CHECK(r.n_experts == sums_.size(3) - 1, "utilisation: layer {} has {} experts, not {}", l, r.n_experts,
          sums_.size(3) - 1);
    accumulate_utilisation(r.gates.value(), r.experts, labels, sequences, sums_.rows(l, l + 1).reshape(one));
    if (shares_.defined())
      add_shares(r, labels, sequences, shares_.rows(l, l + 1).reshape(shares_.shape().without(0)));
  }
}

void Utilisation::reduce(Communicator& communicator) {
  for (const Tensor& sums : {sums_, shares_})
    if (sums.defined()) communicator.all_reduce(sums.raw(), sums.numel(), sums.dtype(), Reduction::kSum);
}

// Rows that sum to 1, or a mark in a column of their own.     sums [2, 2, C, E + X + 3]
void Utilisation::add_shares(const Routing& r, const Tensor& labels, const Sequences& q, const Tensor& sums) const {
  const int64_t tokens = r.gates.size(0), width = r.n_experts + columns_ + 2;
  const DType type = r.gates.dtype();
  CHECK((columns_ > 0) == r.other_choices.defined() && (columns_ == 0 || r.other_choices.size(1) == columns_),
        "utilisation: wants {} columns beside the experts, got another number", columns_);
  Context& context = labels.context();
  const Tensor ones = full(context, r.experts.shape(), 1, type),
               all = choose(full(context, {tokens, width}, 1, type), {}, width, q).experts;
  for (const bool by_choices : {false, true}) {
    const Var chosen = scatter_last(ones, r.experts, r.n_experts);
    Var wide = by_choices ? chosen : scatter_last(r.gates.value(), r.experts, r.n_experts);
    if (columns_ > 0) wide = join_columns(wide, by_choices ? r.other_choices : r.other_gates);
    const Var share = share_rows(wide), none = relu(add_scalar(scale(sum(share, 1), -2), 1));  // 1 of a sum of 0
    const Var counts = join_columns(reshape(none, {tokens, 1}), reshape(sum(chosen, 1), {tokens, 1}));
    const Tensor marked = join_columns(share, counts).value();
    accumulate_utilisation(marked, all, labels, q,
                           sums.rows(by_choices, by_choices + 1).reshape(sums.shape().without(0)));
  }
}

namespace {

// Of sums [C, E + 1], or of shares with columns of the unrouted and the pairs before the last [C, E + 3].
Utilisation::Table table_of(const double* sums, int64_t classes, int64_t width, bool shares) {
  const int64_t experts = width - (shares ? 3 : 1);
  Utilisation::Table t{classes, experts, std::vector<double>(static_cast<size_t>(classes * experts)), {}};
  for (int64_t c = 0; c < classes; ++c) {
    const double* row = sums + c * width;
    if (shares) t.unrouted.push_back(row[experts]), t.pairs.push_back(row[experts + 1]);
    t.rows.push_back(row[width - 1] - (shares ? row[experts] : 0));
    for (int64_t e = 0; e < experts; ++e)
      t.mean[static_cast<size_t>(c * experts + e)] = t.rows.back() > 0 ? row[e] / t.rows.back() : 0;
  }
  return t;
}

}  // namespace

std::vector<Utilisation::Layer> Utilisation::read() const {
  const std::vector<double> sums = sums_.to_vector<double>();
  const std::vector<double> shares = shares_.defined() ? shares_.to_vector<double>() : std::vector<double>();
  const int64_t classes = sums_.size(2), width = sums_.size(3), wide = width + columns_ + 2;
  const auto views = [&](const std::vector<double>& from, int64_t at, int64_t columns, bool of_shares) {
    const double* begin = from.data() + at * 2 * classes * columns;
    return Views{table_of(begin, classes, columns, of_shares),
                 table_of(begin + classes * columns, classes, columns, of_shares)};
  };
  std::vector<Layer> all;
  for (int64_t l = 0; l < sums_.size(0); ++l) {
    all.push_back({views(sums, l, width, false)});
    if (shares.empty()) continue;
    all.back().mass = views(shares, 2 * l, wide, true);
    all.back().choices = views(shares, 2 * l + 1, wide, true);
  }
  return all;
}

}  // namespace glia
