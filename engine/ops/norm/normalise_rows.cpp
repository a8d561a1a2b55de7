#include "engine/ops/norm/normalise_rows.h"

#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/norm/normalise_rows_kernels.h"
#include "engine/ops/wide_types.h"

namespace glia {
namespace {

template <class N> Var normalised(N kind, const Var& x) {
  CHECK(x.rank() == 2, "{}: wants x [T, N], got {}", N::kName, x.shape());
  const int64_t rows = x.size(0), n = x.size(1);
  const Tensor y = empty_like(x.value()), norms = empty(x.context(), {rows}, x.dtype());
  dispatch_wide(x.dtype(), N::kName, [&]<class A>(TypeTag<A>) {
    const A* from = x.value().data<A>();
    on_device(
        x.context(), N::kName, [&] { cpu::normalise_rows(kind, from, rows, n, y.data<A>(), norms.data<A>()); },
        [&](auto& cuda) { cuda::normalise_rows(kind, from, rows, n, y.data<A>(), norms.data<A>(), cuda.stream); });
  });
  return record(N::kName, y, {x}, [=](const Tensor& dy, Grads& in) {
    const Tensor dx = in.buffer(0);
    dispatch_wide(dy.dtype(), N::kName, [&]<class A>(TypeTag<A>) {
      const A *v = y.data<A>(), *d = dy.data<A>();
      on_device(
          dy.context(), N::kGradient,
          [&] { cpu::normalise_gradient(kind, v, norms.data<A>(), d, rows, n, dx.data<A>()); },
          [&](auto& cuda) {
            cuda::normalise_gradient(kind, v, norms.data<A>(), d, rows, n, dx.data<A>(), cuda.stream);
          });
    });
    in.add(0, dx);
  });
}

}  // namespace

Var share_rows(const Var& x) { return normalised(ShareNorm{}, x); }
Var unit_rows(const Var& x) { return normalised(UnitNorm{}, x); }

namespace cpu {

template <class N, class A> void normalise_rows(N, const A* x, int64_t rows, int64_t n, A* y, A* norms) {
  parallel_for(rows, 1024, [=](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) normalise_row<N>(x + t * n, n, y + t * n, norms + t);
  });
}

template <class N, class A>
void normalise_gradient(N, const A* y, const A* norms, const A* dy, int64_t rows, int64_t n, A* dx) {
  parallel_for(rows, 1024, [=](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) N::gradient(y + t * n, dy + t * n, norms[t], n, dx + t * n);
  });
}

}  // namespace cpu
}  // namespace glia
