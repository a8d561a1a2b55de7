#include "engine/ops/rows/topk.h"

#include <algorithm>
#include <limits>

#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/rows/topk_kernels.h"

namespace glia {
namespace {

Tensor scatter_value(const Tensor& values, const Tensor& indices, const Tensor& y) {
  const int64_t rows = indices.size(0), k = indices.size(1), n = y.size(1);
  dispatch_floating(y.dtype(), "scatter_last", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int32_t* i = indices.data<int32_t>();
    on_device(
        y.context(), "scatter_last", [&] { cpu::scatter_last(values.data<T>(), i, y.data<T>(), rows, n, k); },
        [&](auto& cuda) { cuda::scatter_last(values.data<T>(), i, y.data<T>(), rows, n, k, cuda.stream); });
  });
  return y;
}

}  // namespace

// values[t, i] = the i-th largest of x[t];  dx[t, indices[t, i]] = dvalues[t, i], 0 elsewhere.
TopK top_k(const Var& x, int64_t k) {
  CHECK(x.rank() == 2, "top_k: wants x [T, N], got {}", x.shape());
  const int64_t rows = x.size(0), n = x.size(1);
  CHECK(k >= 1 && k <= n, "top_k: wants 1 <= k <= {}, got {}", n, k);
  Tensor values = empty(x.context(), {rows, k}, x.dtype()), indices = empty(x.context(), {rows, k}, DType::kInt32);
  dispatch_floating(x.dtype(), "top_k", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = x.value().data<T>();
    int32_t* i = indices.data<int32_t>();
    on_device(
        x.context(), "top_k", [&] { cpu::top_k(from, values.data<T>(), i, rows, n, k); },
        [&](auto& cuda) { cuda::top_k(from, values.data<T>(), i, rows, n, k, cuda.stream); });
  });
  Var v = record("top_k", values, {x},
                 [indices](const Tensor& dy, Grads& in) { in.add(0, scatter_value(dy, indices, in.buffer(0))); });
  return {v, indices};
}

// y[t, indices[t, i]] = values[t, i], 0 elsewhere;  dvalues[t, i] = dy[t, indices[t, i]].
Var scatter_last(const Var& values, const Tensor& indices, int64_t n) {
  CHECK(values.rank() == 2 && values.size(1) <= n, "scatter_last: wants values [T, K] with K <= {}, got {}", n,
        values.shape());
  check_index("scatter_last", "indices", indices, values.shape(), values.context());
  Tensor y = scatter_value(values.value(), indices, empty(values.context(), {values.size(0), n}, values.dtype()));
  return record("scatter_last", y, {values}, [indices](const Tensor& dy, Grads& in) {
    Tensor dx = in.buffer(0);
    const int64_t rows = dy.size(0), n = dy.size(1), k = indices.size(1);
    dispatch_floating(dy.dtype(), "scatter_last", [&](auto tag) {
      using T = typename decltype(tag)::type;
      const int32_t* i = indices.data<int32_t>();
      on_device(
          dy.context(), "scatter_last/gradient",
          [&] { cpu::gather_last(dy.data<T>(), i, dx.data<T>(), rows, n, k); },
          [&](auto& cuda) { cuda::gather_last(dy.data<T>(), i, dx.data<T>(), rows, n, k, cuda.stream); });
    });
    in.add(0, dx);
  });
}

namespace cpu {

template <class T> void top_k(const T* x, T* values, int32_t* indices, int64_t rows, int64_t n, int64_t k) {
  using A = Accumulator<T>;
  parallel_for(rows, std::max<int64_t>(1, (1 << 12) / n), [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* row = x + r * n;
      const auto rank = [&](int32_t j) {
        const A v = static_cast<A>(row[j]);
        return v == v ? v : -std::numeric_limits<A>::infinity();
      };
      // Insertion into a short descending list; a later equal value goes behind.
      int32_t* best = indices + r * k;
      int64_t held = 0;
      for (int32_t j = 0; j < n; ++j) {
        const A v = rank(j);
        if (held == k && !(v > rank(best[k - 1]))) continue;
        int64_t at = held < k ? held++ : k - 1;
        for (; at > 0 && v > rank(best[at - 1]); --at) best[at] = best[at - 1];
        best[at] = j;
      }
      for (int64_t i = 0; i < k; ++i) values[r * k + i] = row[best[i]];
    }
  });
}

template <class T>
void scatter_last(const T* values, const int32_t* indices, T* y, int64_t rows, int64_t n, int64_t k) {
  parallel_for(rows, std::max<int64_t>(1, (1 << 14) / n), [=](int64_t begin, int64_t end) {
    std::fill(y + begin * n, y + end * n, static_cast<T>(0.0f));
    for (int64_t i = begin * k; i < end * k; ++i)
      if (indices[i] >= 0 && indices[i] < n) y[i / k * n + indices[i]] = values[i];
  });
}

template <class T>
void gather_last(const T* x, const int32_t* indices, T* values, int64_t rows, int64_t n, int64_t k) {
  parallel_for(rows * k, 1 << 12, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      values[i] = indices[i] >= 0 && indices[i] < n ? x[i / k * n + indices[i]] : static_cast<T>(0.0f);
  });
}

#define INSTANTIATE(T)                                                                 \
  template void top_k(const T*, T*, int32_t*, int64_t, int64_t, int64_t);              \
  template void scatter_last(const T*, const int32_t*, T*, int64_t, int64_t, int64_t); \
  template void gather_last(const T*, const int32_t*, T*, int64_t, int64_t, int64_t);
GLIA_FOR_FLOATING(INSTANTIATE)
#undef INSTANTIATE

}  // namespace cpu
}  // namespace glia
