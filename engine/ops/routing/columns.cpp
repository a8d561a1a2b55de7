#include "engine/ops/routing/columns.h"

#include <algorithm>

#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/routing/columns_kernels.h"
#include "engine/ops/wide_types.h"

namespace glia {
namespace {

// y[., to …] = x[., from …], `count` columns.
void copy(const Tensor& x, int64_t from, const Tensor& y, int64_t to, int64_t count) {
  const ColumnsShape s{x.size(0), count, x.size(1), from, y.size(1), to};
  dispatch_wide(x.dtype(), "copy_columns", [&]<class A>(TypeTag<A>) {
    on_device(
        x.context(), "copy_columns", [&] { cpu::copy_columns(s, x.data<A>(), y.data<A>()); },
        [&](auto& cuda) { cuda::copy_columns(s, x.data<A>(), y.data<A>(), cuda.stream); });
  });
}

bool wide_enough(const Var& x) {
  return x.rank() == 2 && (x.dtype() == DType::kFloat32 || x.dtype() == DType::kFloat64);
}

}  // namespace

Var columns(const Var& x, int64_t begin, int64_t end) {
  CHECK(wide_enough(x) && 0 <= begin && begin < end && end <= x.size(1),
        "columns: wants x [T, N] float32 or float64 and a range in it, got {} {} and {} … {}", x.dtype(), x.shape(),
        begin, end);
  const Tensor y = empty(x.context(), {x.size(0), end - begin}, x.dtype());
  copy(x.value(), begin, y, 0, end - begin);
  return record("columns", y, {x}, [begin](const Tensor& dy, Grads& in) {
    Tensor dx = in.buffer(0);
    dx.zero();
    copy(dy, 0, dx, begin, dy.size(1));
    in.add(0, dx);
  });
}

Var join_columns(const Var& a, const Var& b) {
  CHECK(wide_enough(a) && wide_enough(b) && a.size(0) == b.size(0) && a.dtype() == b.dtype(),
        "join_columns: wants [T, N] and [T, M] of one dtype, float32 or float64, got {} {} and {} {}", a.dtype(),
        a.shape(), b.dtype(), b.shape());
  const int64_t n = a.size(1), m = b.size(1);
  const Tensor y = empty(a.context(), {a.size(0), n + m}, a.dtype());
  copy(a.value(), 0, y, 0, n);
  copy(b.value(), 0, y, n, m);
  return record("join_columns", y, {a, b}, [n, m](const Tensor& dy, Grads& in) {
    for (size_t i = 0; i < 2; ++i) {
      if (!in.wants(i)) continue;
      const Tensor d = in.buffer(i);
      copy(dy, i == 0 ? 0 : n, d, 0, i == 0 ? n : m);
      in.add(i, d);
    }
  });
}

Var scale_rows(const Var& x, const Var& by) {
  CHECK(x.rank() == 2 && by.shape() == (Shape{x.size(0), 1}) && by.dtype() == accumulation_dtype(x.dtype()),
        "scale_rows: wants x [T, H] and {} [T, 1], got {} and {} {}", accumulation_dtype(x.dtype()), x.shape(),
        by.dtype(), by.shape());
  const Tensor from = x.value(), factor = by.value();
  const auto scaled = [factor](const Tensor& rows) {
    const Tensor y = empty(rows.context(), rows.shape(), rows.dtype());
    dispatch_floating(rows.dtype(), "scale_rows", [&](auto tag) {
      using T = typename decltype(tag)::type;
      const auto* f = factor.data<Accumulator<T>>();
      on_device(
          rows.context(), "scale_rows",
          [&] { cpu::scale_rows(rows.data<T>(), f, rows.size(0), rows.size(1), y.data<T>()); },
          [&](auto& cuda) {
            cuda::scale_rows(rows.data<T>(), f, rows.size(0), rows.size(1), y.data<T>(), cuda.stream);
          });
    });
    return y;
  };
  return record("scale_rows", scaled(from), {x, by}, [from, scaled](const Tensor& dy, Grads& in) {
    if (in.wants(0)) in.add(0, scaled(dy));
    if (!in.wants(1)) return;
    const Tensor d = in.buffer(1);
    dispatch_floating(dy.dtype(), "scale_rows", [&](auto tag) {
      using T = typename decltype(tag)::type;
      auto* to = d.data<Accumulator<T>>();
      on_device(
          dy.context(), "scale_rows/gradient",
          [&] { cpu::scale_rows_gradient(from.data<T>(), dy.data<T>(), dy.size(0), dy.size(1), to); },
          [&](auto& cuda) {
            cuda::scale_rows_gradient(from.data<T>(), dy.data<T>(), dy.size(0), dy.size(1), to, cuda.stream);
          });
    });
    in.add(1, d);
  });
}

namespace cpu {

template <class A> void copy_columns(const ColumnsShape& s, const A* x, A* y) {
  for (int64_t t = 0; t < s.rows; ++t)
    std::copy_n(x + t * s.from_width + s.from, s.count, y + t * s.to_width + s.to);
}

template <class T> void scale_rows(const T* x, const Accumulator<T>* by, int64_t rows, int64_t width, T* y) {
  parallel_for(rows, 64, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin * width; i < end * width; ++i)
      y[i] = static_cast<T>(static_cast<Accumulator<T>>(x[i]) * by[i / width]);
  });
}

template <class T>
void scale_rows_gradient(const T* x, const T* dy, int64_t rows, int64_t width, Accumulator<T>* d) {
  parallel_for(rows, 64, [=](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      d[t] = 0;
      for (int64_t i = t * width; i < (t + 1) * width; ++i)
        d[t] += static_cast<Accumulator<T>>(x[i]) * static_cast<Accumulator<T>>(dy[i]);
    }
  });
}

}  // namespace cpu
}  // namespace glia
