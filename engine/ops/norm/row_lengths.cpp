#include "engine/ops/norm/row_lengths.h"

#include <cmath>

#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/norm/row_lengths_kernels.h"

namespace glia {

Var row_lengths(const Var& x) {
  CHECK(x.rank() == 2, "row_lengths: wants x [R, N], got {}", x.shape());
  const int64_t rows = x.size(0), n = x.size(1);
  const Tensor from = x.value(), y = empty(x.context(), {rows}, accumulation_dtype(x.dtype()));
  dispatch_floating(x.dtype(), "row_lengths", [&](auto tag) {
    using T = typename decltype(tag)::type;
    auto* to = y.data<Accumulator<T>>();
    on_device(
        x.context(), "row_lengths", [&] { cpu::row_lengths(from.data<T>(), rows, n, to); },
        [&](auto& cuda) { cuda::row_lengths(from.data<T>(), rows, n, to, cuda.stream); });
  });
  return record("row_lengths", y, {x}, [from, y, rows, n](const Tensor& dy, Grads& in) {
    const Tensor dx = in.buffer(0);
    dispatch_floating(from.dtype(), "row_lengths", [&](auto tag) {
      using T = typename decltype(tag)::type;
      const auto *lengths = y.data<Accumulator<T>>(), *d = dy.data<Accumulator<T>>();
      on_device(
          dy.context(), "row_lengths/gradient",
          [&] { cpu::row_lengths_gradient(from.data<T>(), lengths, d, rows, n, dx.data<T>()); },
          [&](auto& cuda) {
            cuda::row_lengths_gradient(from.data<T>(), lengths, d, rows, n, dx.data<T>(), cuda.stream);
          });
    });
    in.add(0, dx);
  });
}

namespace cpu {

template <class T> void row_lengths(const T* x, int64_t rows, int64_t n, Accumulator<T>* y) {
  // A long sum of squares in float32 would err by several roundings.
  parallel_for(rows, 16, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      double sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < n; ++i) {
        const auto v = static_cast<double>(static_cast<Accumulator<T>>(x[r * n + i]));
        sum += v * v;
      }
      y[r] = static_cast<Accumulator<T>>(std::sqrt(sum + kLeastSquare));
    }
  });
}

template <class T>
void row_lengths_gradient(const T* x, const Accumulator<T>* y, const Accumulator<T>* dy, int64_t rows, int64_t n,
                          T* dx) {
  using A = Accumulator<T>;
  parallel_for(rows, 16, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const A factor = dy[r] / y[r];
      for (int64_t i = 0; i < n; ++i) dx[r * n + i] = static_cast<T>(factor * static_cast<A>(x[r * n + i]));
    }
  });
}

#define INSTANTIATE(T)                                                    \
  template void row_lengths(const T*, int64_t, int64_t, Accumulator<T>*); \
  template void row_lengths_gradient(const T*, const Accumulator<T>*, const Accumulator<T>*, int64_t, int64_t, T*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace cpu
}  // namespace glia
