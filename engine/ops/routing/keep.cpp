#include "engine/ops/routing/keep.h"

#include <algorithm>
#include <vector>

#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/ranks/sum_over_ranks.h"
#include "engine/ops/routing/keep_kernels.h"

namespace glia {
namespace {

template <class F> void with_type(const Tensor& x, const char* op, F&& f) {
  CHECK(x.rank() == 2 && (x.dtype() == DType::kFloat32 || x.dtype() == DType::kFloat64),
        "{}: wants float32 or float64 [T, E], got {} {}", op, x.dtype(), x.shape());
  if (x.dtype() == DType::kFloat32) f(TypeTag<float>{});
  else f(TypeTag<double>{});
}

void check_rows(const char* op, const Tensor& x, double share, const Sequences& q) {
  CHECK(x.rank() == 2 && x.size(0) == q.tokens, "{}: wants x [{}, E], got {}", op, q.tokens, x.shape());
  CHECK(share > 0 && share <= 1, "{}: wants 0 < share <= 1, got {}", op, share);
}

}  // namespace

Tensor keep_top_rows(const Tensor& x, double share, const Sequences& q) {
  check_rows("keep_top_rows", x, share, q);
  const Tensor y = empty_like(x);
  const KeepShape shape{x.size(0), x.size(1), q.sequence_of.data<int32_t>(), q.offsets.data<int32_t>(), share};
  with_type(x, "keep_top_rows", [&]<class A>(TypeTag<A>) {
    on_device(
        x.context(), "keep_top_rows", [&] { cpu::keep_top_rows(shape, x.data<A>(), y.data<A>()); },
        [&](auto& cuda) { cuda::keep_top_rows(shape, x.data<A>(), y.data<A>(), cuda.stream); });
  });
  return record_without_gradient("keep_top_rows", y).value();
}

Tensor keep_at_least(const Tensor& x, const Tensor& bound) {
  CHECK(x.rank() == 2 && bound.shape() == Shape{x.size(1)} && bound.dtype() == x.dtype(),
        "keep_at_least: wants x [T, E] and bound [E] in one dtype, got {} {} and {} {}", x.dtype(), x.shape(),
        bound.dtype(), bound.shape());
  const Tensor y = empty_like(x);
  with_type(x, "keep_at_least", [&]<class A>(TypeTag<A>) {
    const A *from = x.data<A>(), *least = bound.data<A>();
    on_device(
        x.context(), "keep_at_least", [&] { cpu::keep_at_least(x.numel(), x.size(1), from, least, y.data<A>()); },
        [&](auto& cuda) { cuda::keep_at_least(x.numel(), x.size(1), from, least, y.data<A>(), cuda.stream); });
  });
  return record_without_gradient("keep_at_least", y).value();
}

Tensor keep_largest(const Tensor& x, int64_t least, int64_t most, const Tensor& u) {
  CHECK(x.rank() == 2 && least >= 1 && least <= most && most <= x.size(1),
        "keep_largest: wants x [R, N] and 1 <= least <= most <= N, got {}, {} and {}", x.shape(), least, most);
  CHECK(!u.defined() || (u.numel() == x.size(0) && u.dtype() == x.dtype()),
        "keep_largest: wants u {} [{}], got {} {}", x.dtype(), x.size(0), u.dtype(), u.shape());
  const Tensor y = empty_like(x);
  const LargestRule rule{x.size(0), x.size(1), least, most};
  with_type(x, "keep_largest", [&]<class A>(TypeTag<A>) {
    const A *from = x.data<A>(), *random = u.defined() ? u.data<A>() : nullptr;
    on_device(
        x.context(), "keep_largest", [&] { cpu::keep_largest(rule, from, random, y.data<A>()); },
        [&](auto& cuda) { cuda::keep_largest(rule, from, random, y.data<A>(), cuda.stream); });
  });
  return record_without_gradient("keep_largest", y).value();
}

Tensor column_rank(const Tensor& x, double share, int64_t beyond, const Sequences& q) {
  check_rows("column_rank", x, share, q);
  const Tensor y = empty(x.context(), {x.size(1)}, x.dtype());
  Tensor all = x, sequence_of = q.sequence_of, real = q.offsets.rows(q.count, q.count + 1);
  if (x.context().communicator().size() > 1) {
    all = rows_of_all_ranks(x);
    sequence_of = rows_of_all_ranks(sequence_of.reshape({q.tokens, 1}));
    real = rows_of_all_ranks(real.reshape({1, 1}));
  }
  const RankRule rule{all.size(0), all.size(1), sequence_of.data<int32_t>(), real.data<int32_t>(), share,
                      beyond,      real.numel()};
  with_type(x, "column_rank", [&]<class A>(TypeTag<A>) {
    on_device(
        x.context(), "column_rank", [&] { cpu::column_rank(rule, all.data<A>(), y.data<A>()); },
        [&](auto& cuda) { cuda::column_rank(rule, all.data<A>(), y.data<A>(), cuda.stream); });
  });
  return record_without_gradient("column_rank", y).value();
}

namespace cpu {

template <class A> void keep_top_rows(const KeepShape& s, const A* x, A* y) {
  parallel_for(s.rows, 64, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin * s.columns; i < end * s.columns; ++i)
      y[i] = kept_in_sequence(s, x, i / s.columns, i % s.columns) ? x[i] : -A(INFINITY);
  });
}

template <class A> void keep_at_least(int64_t n, int64_t columns, const A* x, const A* bound, A* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] >= bound[i % columns] ? x[i] : -A(INFINITY);
}

template <class A> void keep_largest(const LargestRule& r, const A* x, const A* u, A* y) {
  for (int64_t i = 0; i < r.rows; ++i)
    keep_largest_row(r, x + i * r.columns, u ? u + i : nullptr, y + i * r.columns);
}

template <class A> void column_rank(const RankRule& r, const A* x, A* y) {
  std::vector<typename SortableBits<A>::Word> bits;
  for (int64_t e = 0; e < r.columns; ++e) {
    bits.clear();
    for (int64_t t = 0; t < r.rows; ++t)
      if (r.sequence_of[t] >= 0) bits.push_back(sortable(x[t * r.columns + e]));
    const auto at = bits.begin() + wanted_rank(r);
    std::nth_element(bits.begin(), at, bits.end(), std::greater<>());
    y[e] = unsorted<A>(*at);
  }
}

}  // namespace cpu
}  // namespace glia
