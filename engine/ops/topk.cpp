#include "engine/ops/topk.h"

#include "engine/core/parallel.h"
#include "engine/ops/topk_functors.h"

namespace glia {
namespace {

Tensor scatter(const Tensor& values, const Tensor& indices, int64_t n) {
  const int64_t rows = values.size(0), k = values.size(1);
  Tensor y = empty(values.context(), {rows, n}, values.dtype());
  dispatch_floating(values.dtype(), "scatter_last", [&](auto tag) {
    using T = typename decltype(tag)::type;
    on_device(values.context(), "scatter_last",
              [&] { cpu::scatter_last(values.data<T>(), indices.data<int32_t>(), rows, n, k, y.data<T>()); },
              [&](auto& cuda) { cuda::scatter_last(values.data<T>(), indices.data<int32_t>(), rows, n, k, y.data<T>(), cuda.stream); });
  });
  return y;
}

Tensor gather(const Tensor& x, const Tensor& indices) {
  const int64_t rows = x.size(0), n = x.size(1), k = indices.size(1);
  Tensor values = empty(x.context(), {rows, k}, x.dtype());
  dispatch_floating(x.dtype(), "gather_last", [&](auto tag) {
    using T = typename decltype(tag)::type;
    on_device(x.context(), "gather_last", [&] { cpu::gather_last(x.data<T>(), indices.data<int32_t>(), rows, n, k, values.data<T>()); },
              [&](auto& cuda) { cuda::gather_last(x.data<T>(), indices.data<int32_t>(), rows, n, k, values.data<T>(), cuda.stream); });
  });
  return values;
}

}  // namespace

// dx[t, indices[t, k]] = dvalues[t, k], 0 elsewhere.
TopK top_k(const Var& x, int64_t k) {
  CHECK(x.rank() == 2 && k >= 1 && k <= x.size(1), "top_k: wants x [T, N] and 1 <= k <= N, got {} and k = {}", x.shape(), k);
  const int64_t rows = x.size(0), n = x.size(1);
  Tensor values = empty(x.context(), {rows, k}, x.dtype()), indices = empty(x.context(), {rows, k}, DType::kInt32);
  dispatch_floating(x.dtype(), "top_k", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = x.value().data<T>();
    on_device(x.context(), "top_k", [&] { cpu::top_k(from, rows, n, k, values.data<T>(), indices.data<int32_t>()); },
              [&](auto& cuda) { cuda::top_k(from, rows, n, k, values.data<T>(), indices.data<int32_t>(), cuda.stream); });
  });
  Var y = record("top_k", values, {x}, [indices, n](const Tensor& dy, Grads& in) { in.add(0, scatter(dy, indices, n)); });
  return {y, indices};
}

// dvalues[t, k] = dy[t, indices[t, k]].
Var scatter_last(const Var& values, const Tensor& indices, int64_t n) {
  CHECK(values.rank() == 2 && indices.shape() == values.shape() && indices.dtype() == DType::kInt32,
        "scatter_last: wants values [T, K] and indices int32 [T, K], got {} and {} {}", values.shape(), indices.dtype(), indices.shape());
  return record("scatter_last", scatter(values.value(), indices, n), {values},
                [indices](const Tensor& dy, Grads& in) { in.add(0, gather(dy, indices)); });
}

namespace cpu {

template <class T>
void top_k(const T* x, int64_t rows, int64_t n, int64_t k, T* values, int32_t* indices) {
  parallel_for(rows, 256, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) top_k_row(x + r * n, n, k, values + r * k, indices + r * k);
  });
}
template <class T>
void scatter_last(const T* values, const int32_t* indices, int64_t rows, int64_t n, int64_t k, T* y) {
  parallel_for(rows, 256, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) scatter_row(values + r * k, indices + r * k, n, k, y + r * n);
  });
}
template <class T>
void gather_last(const T* x, const int32_t* indices, int64_t rows, int64_t n, int64_t k, T* values) {
  parallel_for(rows, 256, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) gather_row(x + r * n, indices + r * k, k, values + r * k);
  });
}

}  // namespace cpu
}  // namespace glia
