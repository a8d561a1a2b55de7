#include "engine/ops/rows/bias.h"

#include <vector>

#include "engine/core/clones.h"
#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/elementwise/elementwise_functors.h"
#include "engine/ops/rows/bias_kernels.h"
#include "engine/ops/rows/column_sum.h"

namespace glia {

// y = x + b;  dx = dy, db = Σ_rows dy.
Var bias_add(const Var& x, const Var& b) {
  check_along_last("bias_add", "a bias", x, b);
  const Tensor bias = b.value_as(accumulation_dtype(x.dtype()));
  const int64_t rows = leading_rows(x.value()), n = x.size(-1);
  Tensor y = empty_like(x.value());
  dispatch_floating(x.dtype(), "bias_add", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = x.value().data<T>();
    const Accumulator<T>* add = bias.data<Accumulator<T>>();
    on_device(
        x.context(), "bias_add", [&] { cpu::bias_add(from, add, y.data<T>(), rows, n); },
        [&](auto& cuda) { cuda::bias_add(from, add, y.data<T>(), rows, n, cuda.stream); });
  });
  return record("bias_add", y, {x, b}, [rows, n](const Tensor& dy, Grads& in) {
    in.add(0, dy);
    if (in.wants(1)) {
      Tensor db = in.buffer(1);
      column_sum(dy.reshape({rows, n}), db);
      in.add(1, db);
    }
  });
}

// y = gelu(s), s = x + b;  dx = dy ∘ gelu'(s), db = Σ_rows dx, in one pass. s is computed again: it is never
// stored.
Var bias_gelu(const Var& x, const Var& b) {
  check_along_last("bias_gelu", "a bias", x, b);
  const Tensor bias = b.value_as(accumulation_dtype(x.dtype())), saved = x.value();
  const int64_t rows = leading_rows(saved), n = x.size(-1);
  Tensor y = empty_like(saved);
  dispatch_floating(x.dtype(), "bias_gelu", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Accumulator<T>* add = bias.data<Accumulator<T>>();
    on_device(
        x.context(), "bias_gelu", [&] { cpu::bias_gelu(saved.data<T>(), add, y.data<T>(), rows, n); },
        [&](auto& cuda) { cuda::bias_gelu(saved.data<T>(), add, y.data<T>(), rows, n, cuda.stream); });
  });
  return record("bias_gelu", y, {x, b}, [saved, bias, rows, n, type = b.dtype()](const Tensor& dy, Grads& in) {
    Tensor dx = in.wants(0) ? in.buffer(0) : empty_like(saved);
    Tensor db = !in.wants(1) ? Tensor() : type == bias.dtype() ? in.buffer(1) : empty_like(bias);
    dispatch_floating(dy.dtype(), "bias_gelu", [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = Accumulator<T>;
      A* sum = data_or_null<A>(db);
      on_device(
          dy.context(), "bias_gelu/gradient",
          [&] {
            cpu::bias_gelu_gradient(saved.data<T>(), bias.data<A>(), dy.data<T>(), dx.data<T>(), sum, rows, n);
          },
          [&](auto& cuda) {
            Tensor partial = empty(dy.context(), {cuda::bias_chunks(rows, n), n}, bias.dtype());
            cuda::bias_gelu_gradient(saved.data<T>(), bias.data<A>(), dy.data<T>(), dx.data<T>(), partial.data<A>(),
                                     sum, rows, n, cuda.stream);
          });
    });
    in.add(0, dx);
    if (db.defined()) in.add(1, cast(db, type));
  });
}

Var bias_gelu_reference(const Var& x, const Var& b) { return gelu(bias_add(x, b)); }

namespace cpu {

constexpr int64_t kRows = 32;  // of a chunk: the unit of work and of the bias gradient's partial sums

template <class T> void bias_add(const T* x, const Accumulator<T>* b, T* y, int64_t rows, int64_t n) {
  using A = Accumulator<T>;
  parallel_for(rows, kRows, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* from = x + r * n;
      T* to = y + r * n;
#pragma GCC ivdep
      for (int64_t j = 0; j < n; ++j) to[j] = static_cast<T>(static_cast<A>(from[j]) + b[j]);
    }
  });
}

template <class T> GLIA_CLONES void bias_gelu_row(const T* x, const Accumulator<T>* b, T* y, int64_t n) {
  using A = Accumulator<T>;
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) y[j] = static_cast<T>(Gelu{}.value(static_cast<A>(x[j]) + b[j]));
}

template <class T> void bias_gelu(const T* x, const Accumulator<T>* b, T* y, int64_t rows, int64_t n) {
  parallel_for(rows, kRows, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) bias_gelu_row(x + r * n, b, y + r * n, n);
  });
}

template <class T>
GLIA_CLONES void bias_gelu_gradient_row(const T* x, const Accumulator<T>* b, const T* dy, T* dx,
                                        Accumulator<T>* sum, int64_t n) {
  using A = Accumulator<T>;
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j)
    dx[j] = static_cast<T>(static_cast<A>(dy[j]) * Gelu{}.derivative(static_cast<A>(x[j]) + b[j]));
  if (!sum) return;
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) sum[j] += static_cast<A>(dx[j]);
}

template <class T>
void bias_gelu_gradient(const T* x, const Accumulator<T>* b, const T* dy, T* dx, Accumulator<T>* db, int64_t rows,
                        int64_t n) {
  using A = Accumulator<T>;
  const int64_t chunks = (rows + kRows - 1) / kRows;
  std::vector<A> partial(static_cast<size_t>(db ? chunks * n : 0), A{0});
  parallel_for(rows, kRows, [&, b](int64_t begin, int64_t end) {
    A* sum = db ? &partial[begin / kRows * n] : nullptr;
    for (int64_t r = begin; r < end; ++r) bias_gelu_gradient_row(x + r * n, b, dy + r * n, dx + r * n, sum, n);
  });
  if (!db) return;
  std::fill(db, db + n, A{0});
  for (int64_t c = 0; c < chunks; ++c)
    for (int64_t j = 0; j < n; ++j) db[j] += partial[c * n + j];
}

#define INSTANTIATE(T)                                                                                      \
  template void bias_add(const T*, const Accumulator<T>*, T*, int64_t, int64_t);                            \
  template void bias_gelu(const T*, const Accumulator<T>*, T*, int64_t, int64_t);                           \
  template void bias_gelu_gradient(const T*, const Accumulator<T>*, const T*, T*, Accumulator<T>*, int64_t, \
                                   int64_t);
GLIA_FOR_FLOATING(INSTANTIATE)
#undef INSTANTIATE

}  // namespace cpu
}  // namespace glia
