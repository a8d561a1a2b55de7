#include "engine/ops/routing/noise/random_rows.h"

#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/routing/noise/random_rows_kernels.h"
#include "engine/ops/wide_types.h"

namespace glia {
namespace {

Tensor drawn(Context& context, DType dtype, const RandomRows& r) {
  CHECK(r.rows >= 0 && r.columns >= 1, "random_rows: wants rows of at least one number, got [{}, {}]", r.rows,
        r.columns);
  const Tensor y = empty(context, {r.rows, r.columns}, dtype);
  dispatch_wide(dtype, "random_rows", [&]<class A>(TypeTag<A>) {
    on_device(
        context, "random_rows", [&] { cpu::random_rows(r, y.data<A>()); },
        [&](auto& cuda) { cuda::random_rows(r, y.data<A>(), cuda.stream); });
  });
  return record_without_gradient("random_rows", y).value();
}

}  // namespace

Tensor random_rows(Context& context, int64_t rows, int64_t columns, DType dtype, RandomKind kind,
                   const RandomKey& key) {
  return drawn(context, dtype, {rows, columns, kind == RandomKind::kNormal, key, nullptr});
}

Tensor random_rows_of(const Tensor& ids, int64_t columns, DType dtype, RandomKind kind, const RandomKey& key) {
  CHECK(ids.rank() == 1 && ids.dtype() == DType::kInt32, "random_rows_of: wants ids int32 [T], got {} {}",
        ids.dtype(), ids.shape());
  return drawn(ids.context(), dtype, {ids.numel(), columns, kind == RandomKind::kNormal, key, ids.data<int32_t>()});
}

namespace cpu {

template <class A> void random_rows(const RandomRows& r, A* y) {
  parallel_for(r.rows, 256, [=](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t n = 0; n < r.columns; ++n)
        y[t * r.columns + n] = static_cast<A>(random_of_row(r, row_number(r, t), n));
  });
}

}  // namespace cpu
}  // namespace glia
