#include "engine/ops/ranks/rows_later.h"

#include <utility>

#include "engine/ops/ranks/sum_over_ranks.h"

namespace glia {

void RowsLater::add(const Tensor& own, Use use) { waiting_.push_back({own, {}, std::move(use)}); }

void RowsLater::gather() {
  for (Waiting& w : waiting_) w.all = rows_of_all_ranks(w.own);
}

void RowsLater::use() {
  for (const Waiting& w : std::exchange(waiting_, {})) w.use(w.all);
}

}  // namespace glia
