#include "engine/ops/rows/reduce.h"

#include <vector>

#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/rows/reduce_kernels.h"

namespace glia {
namespace {

AxisShape along(const char* op, const Var& x, int axis) {
  const int a = axis < 0 ? axis + x.rank() : axis;
  CHECK(a >= 0 && a < x.rank(), "{}: axis {} of a tensor of shape {}", op, axis, x.shape());
  AxisShape s;
  for (int i = 0; i < a; ++i) s.outer *= x.size(i);
  s.n = x.size(a);
  for (int i = a + 1; i < x.rank(); ++i) s.inner *= x.size(i);
  return s;
}

// y = factor Σ x;  dx = factor dy, spread along the axis.
Var scaled_sum(const char* op, const Var& x, const AxisShape& s, const Shape& shape, double factor) {
  Tensor y = empty(x.context(), shape, x.dtype());
  dispatch_floating(x.dtype(), op, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = x.value().data<T>();
    on_device(
        x.context(), op, [&] { cpu::axis_sum(s, from, factor, y.data<T>()); },
        [&](auto& cuda) {
          Tensor partial =
              empty(x.context(), {s.outer, cuda::axis_chunks(s), s.inner}, accumulation_dtype(x.dtype()));
          cuda::axis_sum(s, from, factor, partial.data<Accumulator<T>>(), y.data<T>(), cuda.stream);
        });
  });
  return record(op, y, {x}, [op, s, factor](const Tensor& dy, Grads& in) {
    Tensor dx = in.buffer(0);
    dispatch_floating(dy.dtype(), op, [&](auto tag) {
      using T = typename decltype(tag)::type;
      on_device(
          dy.context(), op, [&] { cpu::axis_spread(s, dy.data<T>(), factor, dx.data<T>()); },
          [&](auto& cuda) { cuda::axis_spread(s, dy.data<T>(), factor, dx.data<T>(), cuda.stream); });
    });
    in.add(0, dx);
  });
}

AxisShape everything(const Var& x) { return {1, x.value().numel(), 1}; }

}  // namespace

Var sum(const Var& x, int axis) {
  const AxisShape s = along("sum", x, axis);
  return scaled_sum("sum", x, s, x.shape().without(axis), 1);
}
Var mean(const Var& x, int axis) {
  const AxisShape s = along("mean", x, axis);
  return scaled_sum("mean", x, s, x.shape().without(axis), 1.0 / static_cast<double>(s.n));
}
Var sum(const Var& x) { return scaled_sum("sum", x, everything(x), {}, 1); }
Var mean(const Var& x) {
  return scaled_sum("mean", x, everything(x), {}, 1.0 / static_cast<double>(x.value().numel()));
}

// y = max x;  dx = dy at the first maximum, 0 elsewhere.
Var max(const Var& x, int axis) {
  const AxisShape s = along("max", x, axis);
  CHECK(s.n >= 1, "max: axis {} of {} is empty", axis, x.shape());
  Tensor y = empty(x.context(), x.shape().without(axis), x.dtype()),
         at = empty(x.context(), y.shape(), DType::kInt32);
  dispatch_floating(x.dtype(), "max", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = x.value().data<T>();
    int32_t* first = at.data<int32_t>();
    on_device(
        x.context(), "max", [&] { cpu::axis_max(s, from, y.data<T>(), first); },
        [&](auto& cuda) { cuda::axis_max(s, from, y.data<T>(), first, cuda.stream); });
  });
  return record("max", y, {x}, [s, at](const Tensor& dy, Grads& in) {
    Tensor dx = in.buffer(0);
    dispatch_floating(dy.dtype(), "max", [&](auto tag) {
      using T = typename decltype(tag)::type;
      const int32_t* first = at.data<int32_t>();
      on_device(
          dy.context(), "max/gradient", [&] { cpu::axis_max_gradient(s, first, dy.data<T>(), dx.data<T>()); },
          [&](auto& cuda) { cuda::axis_max_gradient(s, first, dy.data<T>(), dx.data<T>(), cuda.stream); });
    });
    in.add(0, dx);
  });
}

namespace cpu {

constexpr int64_t kChunk = 1 << 12;  // elements of an axis that one thread adds before the partial sums are added

template <class T> void axis_sum(const AxisShape& s, const T* x, double factor, T* y) {
  using A = Accumulator<T>;
  const int64_t n = s.n, inner = s.inner, chunks = std::max<int64_t>(1, (n + kChunk - 1) / kChunk);
  std::vector<A> partial(static_cast<size_t>(s.outer * chunks * inner), A{0});
  const int64_t grain = std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, std::min(n, kChunk) * inner));
  parallel_for(s.outer * chunks, grain, [&, n, inner, chunks](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const int64_t first = c % chunks * kChunk, last = std::min(n, first + kChunk);
      const T* from = x + c / chunks * n * inner;
      A* to = &partial[c * inner];
      if (inner == 1) {
        A sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = first; i < last; ++i) sum += static_cast<A>(from[i]);
        *to = sum;
        continue;
      }
      for (int64_t i = first; i < last; ++i) {
        const T* row = from + i * inner;
#pragma GCC ivdep
        for (int64_t k = 0; k < inner; ++k) to[k] += static_cast<A>(row[k]);
      }
    }
  });
  for (int64_t o = 0; o < s.outer; ++o)
    for (int64_t k = 0; k < inner; ++k) {
      A total = 0;
      for (int64_t c = 0; c < chunks; ++c) total += partial[(o * chunks + c) * inner + k];
      y[o * inner + k] = static_cast<T>(total * static_cast<A>(factor));
    }
}

template <class T> void axis_spread(const AxisShape& s, const T* dy, double factor, T* dx) {
  using A = Accumulator<T>;
  const int64_t inner = s.inner;
  if (inner == 1) {  // one number a row
    parallel_for(s.outer * s.n, 1 << 14, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end;) {
        const int64_t o = i / s.n, stop = std::min(end, (o + 1) * s.n);
        std::fill(dx + i, dx + stop, static_cast<T>(static_cast<A>(dy[o]) * static_cast<A>(factor)));
        i = stop;
      }
    });
    return;
  }
  parallel_for(s.outer * s.n, std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, inner)),
               [=](int64_t begin, int64_t end) {
                 for (int64_t r = begin; r < end; ++r) {
                   const T* from = dy + r / s.n * inner;
#pragma GCC ivdep
                   for (int64_t k = 0; k < inner; ++k)
                     dx[r * inner + k] = static_cast<T>(static_cast<A>(from[k]) * static_cast<A>(factor));
                 }
               });
}

template <class T> void axis_max(const AxisShape& s, const T* x, T* y, int32_t* at) {
  using A = Accumulator<T>;
  parallel_for(s.outer * s.inner, std::max<int64_t>(1, (1 << 13) / s.n), [=](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const T* from = x + c / s.inner * s.n * s.inner + c % s.inner;
      int32_t best = 0;
      A value = static_cast<A>(from[0]);
      for (int64_t i = 1; i < s.n; ++i) {
        const A v = static_cast<A>(from[i * s.inner]);
        if (v > value || (v != v && value == value)) value = v, best = static_cast<int32_t>(i);
      }
      y[c] = from[best * s.inner];
      at[c] = best;
    }
  });
}

template <class T> void axis_max_gradient(const AxisShape& s, const int32_t* at, const T* dy, T* dx) {
  const int64_t inner = s.inner;
  parallel_for(s.outer * s.n, std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, inner)),
               [=](int64_t begin, int64_t end) {
                 for (int64_t r = begin; r < end; ++r) {
                   const int64_t from = r / s.n * inner;
                   for (int64_t k = 0; k < inner; ++k)
                     dx[r * inner + k] = at[from + k] == r % s.n ? dy[from + k] : static_cast<T>(0.0f);
                 }
               });
}

#define INSTANTIATE(T)                                               \
  template void axis_sum(const AxisShape&, const T*, double, T*);    \
  template void axis_spread(const AxisShape&, const T*, double, T*); \
  template void axis_max(const AxisShape&, const T*, T*, int32_t*);  \
  template void axis_max_gradient(const AxisShape&, const int32_t*, const T*, T*);
GLIA_FOR_FLOATING(INSTANTIATE)
#undef INSTANTIATE

}  // namespace cpu
}  // namespace glia
