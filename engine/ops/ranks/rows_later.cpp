#include "engine/ops/ranks/rows_later.h"

#include <utility>

#include "engine/ops/ranks/sum_over_ranks.h"

namespace glia {

void RowsLater::begin(Send send) {
  waiting_.clear();  // a capture may have broken in the middle of a step
  send_ = std::move(send);
}

void RowsLater::add(const Tensor& all, Use use) {
  if (send_) send_(all);
  waiting_.push_back({all, std::move(use), send_ != nullptr});
}

void RowsLater::gather() {
  for (const Waiting& w : waiting_)
    if (!w.sent) gather_own_parts(w.all);
}

void RowsLater::use() {
  for (const Waiting& w : std::exchange(waiting_, {})) w.use(w.all);
}

}  // namespace glia
