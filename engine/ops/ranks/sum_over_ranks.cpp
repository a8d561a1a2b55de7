#include "engine/ops/ranks/sum_over_ranks.h"

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/rows/reduce.h"
#include "engine/ops/rows/rows.h"

namespace glia {
namespace {

Tensor summed(const Tensor& x) {
  Tensor y = empty_like(x);
  y.copy_from(x);
  x.context().communicator().all_reduce(y.raw(), y.numel(), y.dtype(), Reduction::kSum);
  return y;
}

}  // namespace

Var sum_over_ranks(const Var& x) {
  if (x.context().communicator().size() == 1) return x;
  return record("sum_over_ranks", summed(x.value()), {x},
                [](const Tensor& dy, Grads& in) { in.add(0, summed(dy)); });
}

Tensor rows_of_all_ranks(const Tensor& x) {
  Communicator& ranks = x.context().communicator();
  const Tensor all = empty(x.context(), {ranks.size() * x.size(0), x.size(1)}, x.dtype());
  ranks.all_gather(x.raw(), all.raw(), x.numel(), x.dtype());
  return all;
}

void gather_own_parts(const Tensor& all) {
  Communicator& ranks = all.context().communicator();
  const int64_t each = all.size(0) / ranks.size();
  CHECK(each * ranks.size() == all.size(0), "gather_own_parts: wants equal parts for {} ranks, got {}",
        ranks.size(), all.shape());
  const Tensor own = all.rows(ranks.rank() * each, (ranks.rank() + 1) * each);
  ranks.all_gather(own.raw(), all.raw(), own.numel(), all.dtype());
}

Var when_differentiated(const Var& x, std::function<void()> f) {
  return record_summing("when_differentiated", x.value(), {x},
                        [f = std::move(f)](std::span<const Tensor> dy, Grads& in) {
                          for (const Tensor& term : dy) in.add(0, term);  // x's own gradient adds them as it would
                          f();
                        });
}

Tensor real_rows(const Sequences& sequences, DType dtype) {
  const NoGrad no_grad(sequences.offsets.context());
  return sum(sequence_broadcast(full(sequences.offsets.context(), {sequences.count, 1}, 1, dtype), sequences))
      .value();
}

Tensor share_of_rows(const Sequences& sequences, DType dtype, int64_t n) {
  const Tensor mine = real_rows(sequences, dtype);
  const NoGrad no_grad(mine.context());
  const Var share = div(mine, sum_over_ranks(mine));
  return gather_rows(reshape(share, {1, 1}), zeros(mine.context(), {n}, DType::kInt32)).value().reshape({n});
}

}  // namespace glia
