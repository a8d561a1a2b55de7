#include "engine/ops/elementwise/elementwise.h"

#include "engine/core/clones.h"
#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/elementwise/elementwise_kernels.h"

namespace glia {
namespace {

template <class F> Tensor unary_value(const char* op, F f, const Tensor& x) {
  Tensor y = empty_like(x);
  dispatch_floating(x.dtype(), op, [&](auto tag) {
    using T = typename decltype(tag)::type;
    on_device(
        x.context(), op, [&] { cpu::unary(f, x.data<T>(), y.data<T>(), y.numel()); },
        [&](auto& cuda) { cuda::unary(f, x.data<T>(), y.data<T>(), y.numel(), cuda.stream); });
  });
  return y;
}

// y = f(x);  dx = dy ∘ f'(x), with f' from x or from y as the functor says.
template <class F> Var unary(const char* op, F f, const Var& x) {
  const Tensor y = unary_value(op, f, x.value()), saved = F::kFromOutput ? y : x.value();
  return record(op, y, {x}, [op, f, saved](const Tensor& dy, Grads& in) {
    Tensor dx = in.buffer(0);
    dispatch_floating(dy.dtype(), op, [&](auto tag) {
      using T = typename decltype(tag)::type;
      on_device(
          dy.context(), op,
          [&] { cpu::unary_gradient(f, saved.data<T>(), dy.data<T>(), dx.data<T>(), dy.numel()); },
          [&](auto& cuda) {
            cuda::unary_gradient(f, saved.data<T>(), dy.data<T>(), dx.data<T>(), dy.numel(), cuda.stream);
          });
    });
    in.add(0, dx);
  });
}

template <class F> Tensor binary_value(const char* op, F f, const Var& a, const Var& b) {
  check_same(op, a, b);
  Tensor y = empty_like(a.value());
  dispatch_floating(a.dtype(), op, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T *p = a.value().data<T>(), *q = b.value().data<T>();
    on_device(
        a.context(), op, [&] { cpu::binary(f, p, q, y.data<T>(), y.numel()); },
        [&](auto& cuda) { cuda::binary(f, p, q, y.data<T>(), y.numel(), cuda.stream); });
  });
  return y;
}

// y = f(a, b);  da = dy ∘ ∂f/∂a, db = dy ∘ ∂f/∂b, both in one pass.
template <class F> Var binary(const char* op, F f, const Var& a, const Var& b) {
  return record(
      op, binary_value(op, f, a, b), {a, b}, [op, f, a = a.value(), b = b.value()](const Tensor& dy, Grads& in) {
        Tensor da = in.wants(0) ? in.buffer(0) : Tensor(), db = in.wants(1) ? in.buffer(1) : Tensor();
        // x · x of one leaf with a gradient buffer: both would be that buffer.
        if (da.defined() && db.defined() && da.raw() == db.raw()) db = empty_like(db);
        dispatch_floating(dy.dtype(), op, [&](auto tag) {
          using T = typename decltype(tag)::type;
          T *to_a = data_or_null<T>(da), *to_b = data_or_null<T>(db);
          on_device(
              dy.context(), op,
              [&] { cpu::binary_gradient(f, a.data<T>(), b.data<T>(), dy.data<T>(), to_a, to_b, dy.numel()); },
              [&](auto& cuda) {
                cuda::binary_gradient(f, a.data<T>(), b.data<T>(), dy.data<T>(), to_a, to_b, dy.numel(),
                                      cuda.stream);
              });
        });
        if (da.defined()) in.add(0, da);
        if (db.defined()) in.add(1, db);
      });
}

}  // namespace

// Both gradients of a sum are dy itself: shared, not copied (Grads never adds into a shared tensor).
Var add(const Var& a, const Var& b) {
  return record("add", binary_value("add", Add{}, a, b), {a, b}, [](const Tensor& dy, Grads& in) {
    in.add(0, dy);
    in.add(1, dy);
  });
}
Var sub(const Var& a, const Var& b) { return binary("sub", Sub{}, a, b); }
Var mul(const Var& a, const Var& b) { return binary("mul", Mul{}, a, b); }
Var div(const Var& a, const Var& b) { return binary("div", Div{}, a, b); }

Var scale(const Var& x, double factor) {
  return record("scale", unary_value("scale", Scale{factor}, x.value()), {x},
                [factor](const Tensor& dy, Grads& in) { in.add(0, unary_value("scale", Scale{factor}, dy)); });
}
Var add_scalar(const Var& x, double term) {
  return record("add_scalar", unary_value("add_scalar", AddScalar{term}, x.value()), {x},
                [](const Tensor& dy, Grads& in) { in.add(0, dy); });
}
Var exp(const Var& x) { return unary("exp", Exp{}, x); }
Var log(const Var& x) { return unary("log", Log{}, x); }
Var tanh(const Var& x) { return unary("tanh", Tanh{}, x); }
Var sigmoid(const Var& x) { return unary("sigmoid", Sigmoid{}, x); }
Var softplus(const Var& x) { return unary("softplus", Softplus{}, x); }
Var relu(const Var& x) { return unary("relu", Relu{}, x); }
Var gelu(const Var& x) { return unary("gelu", Gelu{}, x); }
Var gelu_tanh(const Var& x) { return unary("gelu_tanh", GeluTanh{}, x); }
Var square(const Var& x) { return unary("square", Square{}, x); }

Var cast(const Var& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  return record("cast", x.value_as(dtype), {x}, [](const Tensor& dy, Grads& in) {
    Tensor dx = in.buffer(0);
    cast_into(dy, dx);
    in.add(0, dx);
  });
}

Var reshape(const Var& x, const Shape& shape) {
  return record("reshape", x.value().reshape(shape), {x},
                [shape = x.shape()](const Tensor& dy, Grads& in) { in.add(0, dy.reshape(shape)); });
}

Var rows(const Var& x, int64_t begin, int64_t end) {
  return record("rows", x.value().rows(begin, end), {x}, [begin, end](const Tensor& dy, Grads& in) {
    Tensor dx = in.buffer(0);
    dx.zero();
    dx.rows(begin, end).copy_from(dy);
    in.add(0, dx);
  });
}

namespace cpu {

constexpr int64_t kGrain = 1 << 14;

template <class F, class T> GLIA_CLONES void unary_loop(F f, const T* x, T* y, int64_t n) {
  using A = Accumulator<T>;
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) y[i] = static_cast<T>(f.value(static_cast<A>(x[i])));
}

template <class F, class T> void unary(F f, const T* x, T* y, int64_t n) {
  parallel_for(n, kGrain, [=](int64_t begin, int64_t end) { unary_loop(f, x + begin, y + begin, end - begin); });
}

template <class F, class T>
GLIA_CLONES void unary_gradient_loop(F f, const T* saved, const T* dy, T* dx, int64_t n) {
  using A = Accumulator<T>;
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i)
    dx[i] = static_cast<T>(static_cast<A>(dy[i]) * f.derivative(static_cast<A>(saved[i])));
}

template <class F, class T> void unary_gradient(F f, const T* saved, const T* dy, T* dx, int64_t n) {
  parallel_for(n, kGrain, [=](int64_t begin, int64_t end) {
    unary_gradient_loop(f, saved + begin, dy + begin, dx + begin, end - begin);
  });
}

template <class F, class T> void binary(F, const T* a, const T* b, T* y, int64_t n) {
  using A = Accumulator<T>;
  parallel_for(n, kGrain, [=](int64_t begin, int64_t end) {
#pragma GCC ivdep
    for (int64_t i = begin; i < end; ++i)
      y[i] = static_cast<T>(F::value(static_cast<A>(a[i]), static_cast<A>(b[i])));
  });
}

template <class F, class T> void binary_gradient(F, const T* a, const T* b, const T* dy, T* da, T* db, int64_t n) {
  using A = Accumulator<T>;
  parallel_for(n, kGrain, [=](int64_t begin, int64_t end) {
    if (da) {
#pragma GCC ivdep
      for (int64_t i = begin; i < end; ++i)
        da[i] = static_cast<T>(static_cast<A>(dy[i]) * F::by_a(static_cast<A>(a[i]), static_cast<A>(b[i])));
    }
    if (db) {
#pragma GCC ivdep
      for (int64_t i = begin; i < end; ++i)
        db[i] = static_cast<T>(static_cast<A>(dy[i]) * F::by_b(static_cast<A>(a[i]), static_cast<A>(b[i])));
    }
  });
}

#define LINEAR(F)                                          \
  template void unary(F, const float*, float*, int64_t);   \
  template void unary(F, const double*, double*, int64_t); \
  template void unary(F, const bfloat16*, bfloat16*, int64_t);
#define UNARY_FOR(F, T) template void unary_gradient(F, const T*, const T*, T*, int64_t);
#define UNARY(F) LINEAR(F) UNARY_FOR(F, float) UNARY_FOR(F, double) UNARY_FOR(F, bfloat16)
#define BINARY_FOR(F, T)                                    \
  template void binary(F, const T*, const T*, T*, int64_t); \
  template void binary_gradient(F, const T*, const T*, const T*, T*, T*, int64_t);
#define BINARY(F) BINARY_FOR(F, float) BINARY_FOR(F, double) BINARY_FOR(F, bfloat16)
GLIA_LINEAR_FUNCTORS(LINEAR)
GLIA_UNARY_FUNCTORS(UNARY)
GLIA_BINARY_FUNCTORS(BINARY)

}  // namespace cpu
}  // namespace glia
