#include "engine/ops/reduce.h"

#include <algorithm>
#include <vector>

#include "engine/core/parallel.h"
#include "engine/ops/reduce_kernels.h"

namespace glia {
namespace {

ReduceShape split_at(const Shape& shape, int axis) {
  ReduceShape s{1, shape[axis], 1};
  const int a = axis < 0 ? axis + shape.rank() : axis;
  for (int i = 0; i < a; ++i) s.outer *= shape[i];
  for (int i = a + 1; i < shape.rank(); ++i) s.inner *= shape[i];
  return s;
}

// y = factor Σ x;  dx = factor dy.
Var scaled_sum(const char* op, const Var& x, const ReduceShape& s, const Shape& result, double factor) {
  Tensor y = empty(x.context(), result, x.dtype());
  dispatch_floating(x.dtype(), op, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = x.value().data<T>();
    on_device(x.context(), op, [&] { cpu::sum(s, from, factor, y.data<T>()); },
              [&](auto& cuda) { cuda::sum(s, from, factor, y.data<T>(), cuda.stream); });
  });
  return record(op, y, {x}, [op, s, factor](const Tensor& dy, Grads& in) {
    Tensor dx = in.buffer(0);
    dispatch_floating(dy.dtype(), op, [&](auto tag) {
      using T = typename decltype(tag)::type;
      on_device(dy.context(), op, [&] { cpu::sum_gradient(s, dy.data<T>(), factor, dx.data<T>()); },
                [&](auto& cuda) { cuda::sum_gradient(s, dy.data<T>(), factor, dx.data<T>(), cuda.stream); });
    });
    in.add(0, dx);
  });
}

double inverse(int64_t n) { return n ? 1.0 / static_cast<double>(n) : 0.0; }

}  // namespace

Var sum(const Var& x, int axis) { return scaled_sum("sum", x, split_at(x.shape(), axis), x.shape().without(axis), 1); }
Var mean(const Var& x, int axis) {
  return scaled_sum("mean", x, split_at(x.shape(), axis), x.shape().without(axis), inverse(x.size(axis)));
}
Var sum(const Var& x) { return scaled_sum("sum", x, {1, x.value().numel(), 1}, {}, 1); }
Var mean(const Var& x) { return scaled_sum("mean", x, {1, x.value().numel(), 1}, {}, inverse(x.value().numel())); }

// dx = dy at the first maximum, 0 elsewhere.
Var max(const Var& x, int axis) {
  const ReduceShape s = split_at(x.shape(), axis);
  CHECK(s.n >= 1, "max: axis {} of {} is empty", axis, x.shape());
  Tensor y = empty(x.context(), x.shape().without(axis), x.dtype()), where = empty(x.context(), y.shape(), DType::kInt32);
  dispatch_floating(x.dtype(), "max", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = x.value().data<T>();
    on_device(x.context(), "max", [&] { cpu::max(s, from, y.data<T>(), where.data<int32_t>()); },
              [&](auto& cuda) { cuda::max(s, from, y.data<T>(), where.data<int32_t>(), cuda.stream); });
  });
  return record("max", y, {x}, [s, where](const Tensor& dy, Grads& in) {
    Tensor dx = in.buffer(0);
    dispatch_floating(dy.dtype(), "max", [&](auto tag) {
      using T = typename decltype(tag)::type;
      on_device(dy.context(), "max/gradient", [&] { cpu::max_gradient(s, dy.data<T>(), where.data<int32_t>(), dx.data<T>()); },
                [&](auto& cuda) { cuda::max_gradient(s, dy.data<T>(), where.data<int32_t>(), dx.data<T>(), cuda.stream); });
    });
    in.add(0, dx);
  });
}

namespace cpu {

template <class T>
void sum(const ReduceShape& s, const T* x, double factor, T* y) {
  using A = Accumulator<T>;
  if (s.outer == 1 && s.inner == 1) {  // one long sum: a partial result a chunk of fixed size
    constexpr int64_t kChunk = 1 << 14;
    std::vector<A> partial(static_cast<size_t>((s.n + kChunk - 1) / kChunk));
    parallel_for(s.n, kChunk, [&](int64_t begin, int64_t end) {
      A total = 0;
      for (int64_t i = begin; i < end; ++i) total += static_cast<A>(x[i]);
      partial[begin / kChunk] = total;
    });
    A total = 0;
    for (A p : partial) total += p;
    y[0] = static_cast<T>(static_cast<A>(factor) * total);
    return;
  }
  parallel_for(s.outer, std::max<int64_t>(1, 4096 / std::max<int64_t>(1, s.n * s.inner)), [=](int64_t begin, int64_t end) {
    std::vector<A> total(static_cast<size_t>(s.inner));
    for (int64_t o = begin; o < end; ++o) {
      std::fill(total.begin(), total.end(), A{0});
      for (int64_t i = 0; i < s.n; ++i)
        for (int64_t j = 0; j < s.inner; ++j) total[j] += static_cast<A>(x[(o * s.n + i) * s.inner + j]);
      for (int64_t j = 0; j < s.inner; ++j) y[o * s.inner + j] = static_cast<T>(static_cast<A>(factor) * total[j]);
    }
  });
}

template <class T>
void sum_gradient(const ReduceShape& s, const T* dy, double factor, T* dx) {
  using A = Accumulator<T>;
  parallel_for(s.outer * s.n, std::max<int64_t>(1, 4096 / std::max<int64_t>(1, s.inner)), [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t j = 0; j < s.inner; ++j)
        dx[r * s.inner + j] = static_cast<T>(static_cast<A>(factor) * static_cast<A>(dy[r / s.n * s.inner + j]));
  });
}

template <class T>
void max(const ReduceShape& s, const T* x, T* y, int32_t* where) {
  using A = Accumulator<T>;
  parallel_for(s.outer * s.inner, 256, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* from = x + r / s.inner * s.n * s.inner + r % s.inner;
      int64_t best = 0;
      for (int64_t i = 1; i < s.n; ++i)
        if (static_cast<A>(from[i * s.inner]) > static_cast<A>(from[best * s.inner])) best = i;
      y[r] = from[best * s.inner];
      where[r] = static_cast<int32_t>(best);
    }
  });
}

template <class T>
void max_gradient(const ReduceShape& s, const T* dy, const int32_t* where, T* dx) {
  parallel_for(s.outer * s.inner, 256, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      T* to = dx + r / s.inner * s.n * s.inner + r % s.inner;
      for (int64_t i = 0; i < s.n; ++i) to[i * s.inner] = i == where[r] ? dy[r] : static_cast<T>(0.0f);
    }
  });
}

}  // namespace cpu
}  // namespace glia
