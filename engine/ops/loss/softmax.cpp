#include "engine/ops/loss/softmax.h"

#include <cmath>
#include <limits>
#include <vector>

#include "engine/core/clones.h"
#include "engine/core/math.h"
#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/loss/softmax_kernels.h"

namespace glia {
namespace {

// One row for each leading index; a row of no elements has no maximum.
int64_t check_rows(const char* op, const Var& x) {
  CHECK(x.rank() >= 1 && x.size(-1) >= 1, "{}: wants [.., N] with N >= 1, got {}", op, x.shape());
  return leading_rows(x.value());
}

}  // namespace

// y = e^x / Σ e^x;  dx = y ∘ (dy − Σ_n dy_n y_n).
Var softmax(const Var& x) {
  const int64_t rows = check_rows("softmax", x), n = x.size(-1);
  Tensor y = empty_like(x.value());
  dispatch_floating(x.dtype(), "softmax", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = x.value().data<T>();
    on_device(
        x.context(), "softmax", [&] { cpu::softmax(from, y.data<T>(), rows, n); },
        [&](auto& cuda) { cuda::softmax(from, y.data<T>(), rows, n, cuda.stream); });
  });
  return record("softmax", y, {x}, [y, rows, n](const Tensor& dy, Grads& in) {
    Tensor dx = in.buffer(0);
    dispatch_floating(y.dtype(), "softmax", [&](auto tag) {
      using T = typename decltype(tag)::type;
      on_device(
          y.context(), "softmax/gradient",
          [&] { cpu::softmax_gradient(y.data<T>(), dy.data<T>(), dx.data<T>(), rows, n); },
          [&](auto& cuda) {
            cuda::softmax_gradient(y.data<T>(), dy.data<T>(), dx.data<T>(), rows, n, cuda.stream);
          });
    });
    in.add(0, dx);
  });
}

// y = x − ln Σ e^x;  dx = dy − e^y Σ_n dy_n.
Var log_softmax(const Var& x) {
  const int64_t rows = check_rows("log_softmax", x), n = x.size(-1);
  Tensor y = empty_like(x.value());
  dispatch_floating(x.dtype(), "log_softmax", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = x.value().data<T>();
    on_device(
        x.context(), "log_softmax", [&] { cpu::log_softmax(from, y.data<T>(), rows, n); },
        [&](auto& cuda) { cuda::log_softmax(from, y.data<T>(), rows, n, cuda.stream); });
  });
  return record("log_softmax", y, {x}, [y, rows, n](const Tensor& dy, Grads& in) {
    Tensor dx = in.buffer(0);
    dispatch_floating(y.dtype(), "log_softmax", [&](auto tag) {
      using T = typename decltype(tag)::type;
      on_device(
          y.context(), "log_softmax/gradient",
          [&] { cpu::log_softmax_gradient(y.data<T>(), dy.data<T>(), dx.data<T>(), rows, n); },
          [&](auto& cuda) {
            cuda::log_softmax_gradient(y.data<T>(), dy.data<T>(), dx.data<T>(), rows, n, cuda.stream);
          });
    });
    in.add(0, dx);
  });
}

// y = ln Σ e^x;  dx = dy e^(x − y).
Var logsumexp(const Var& x) {
  const int64_t rows = check_rows("logsumexp", x), n = x.size(-1);
  const Tensor saved = x.value();
  Tensor y = empty(x.context(), x.shape().without(-1), x.dtype());
  Tensor lse = empty(x.context(), {rows}, accumulation_dtype(x.dtype()));  // unrounded, for the gradient
  dispatch_floating(x.dtype(), "logsumexp", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Accumulator<T>;
    on_device(
        x.context(), "logsumexp", [&] { cpu::logsumexp(saved.data<T>(), y.data<T>(), lse.data<A>(), rows, n); },
        [&](auto& cuda) { cuda::logsumexp(saved.data<T>(), y.data<T>(), lse.data<A>(), rows, n, cuda.stream); });
  });
  return record("logsumexp", y, {x}, [saved, lse, rows, n](const Tensor& dy, Grads& in) {
    Tensor dx = in.buffer(0);
    dispatch_floating(dy.dtype(), "logsumexp", [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = Accumulator<T>;
      const T *x = saved.data<T>(), *d = dy.data<T>();
      const int32_t* no_labels = nullptr;
      const A* no_scale = nullptr;
      on_device(
          dy.context(), "logsumexp/gradient",
          [&] { cpu::logsumexp_gradient(x, lse.data<A>(), d, no_labels, no_scale, dx.data<T>(), rows, n); },
          [&](auto& cuda) {
            cuda::logsumexp_gradient(x, lse.data<A>(), d, no_labels, no_scale, dx.data<T>(), rows, n, cuda.stream);
          });
    });
    in.add(0, dx);
  });
}

// L = 1/N Σ_b (ln Σ_c e^x_bc − x_b,label) over the N rows with a label;  dx = dL/N (softmax(x) − onehot(label)), 0 without one.
Var cross_entropy(const Var& logits, const Tensor& labels) {
  CHECK(logits.rank() == 2, "cross_entropy: wants logits [B, C], got {}", logits.shape());
  const int64_t rows = check_rows("cross_entropy", logits), n = logits.size(1);
  check_index("cross_entropy", "labels", labels, {rows}, logits.context());
  const Tensor x = logits.value();
  const DType type = accumulation_dtype(x.dtype());
  Tensor loss = empty(x.context(), {}, type), lse = empty(x.context(), {rows}, type),
         scale = empty(x.context(), {}, type);
  dispatch_floating(x.dtype(), "cross_entropy", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Accumulator<T>;
    const int32_t* l = labels.data<int32_t>();
    on_device(
        x.context(), "cross_entropy",
        [&] { cpu::cross_entropy(x.data<T>(), l, lse.data<A>(), loss.data<A>(), scale.data<A>(), rows, n); },
        [&](auto& cuda) {
          Tensor losses = empty_like(lse);
          cuda::cross_entropy(x.data<T>(), l, lse.data<A>(), losses.data<A>(), loss.data<A>(), scale.data<A>(),
                              rows, n, cuda.stream);
        });
  });
  return record("cross_entropy", loss, {logits}, [x, labels, lse, scale, rows, n](const Tensor& dy, Grads& in) {
    Tensor dx = in.buffer(0);
    dispatch_floating(x.dtype(), "cross_entropy", [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = Accumulator<T>;
      const int32_t* l = labels.data<int32_t>();
      const A* s = scale.data<A>();
      on_device(
          x.context(), "cross_entropy/gradient",
          [&] { cpu::logsumexp_gradient(x.data<T>(), lse.data<A>(), dy.data<A>(), l, s, dx.data<T>(), rows, n); },
          [&](auto& cuda) {
            cuda::logsumexp_gradient(x.data<T>(), lse.data<A>(), dy.data<A>(), l, s, dx.data<T>(), rows, n,
                                     cuda.stream);
          });
    });
    in.add(0, dx);
  });
}

namespace cpu {
namespace {

int64_t grain(int64_t n) { return std::max<int64_t>(1, (1 << 14) / n); }  // rows a chunk

// f(row) for all rows, on all cores.
template <class F> void for_each_row(int64_t rows, int64_t n, F&& f) {
  parallel_for(rows, grain(n), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) f(r);
  });
}

}  // namespace

template <class T> GLIA_CLONES Accumulator<T> row_max(const T* x, int64_t n) {
  using A = Accumulator<T>;
  A m = -std::numeric_limits<A>::infinity();
#ifndef __clang__  // whose reduction begins with the lowest finite number, above −∞
#pragma omp simd reduction(max : m)
#endif
  for (int64_t j = 0; j < n; ++j) m = static_cast<A>(x[j]) > m ? static_cast<A>(x[j]) : m;
  return m;
}

template <class T> GLIA_CLONES Accumulator<T> row_exp_sum(const T* x, Accumulator<T> m, int64_t n) {
  using A = Accumulator<T>;
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) sum += math::exp_negative(static_cast<A>(x[j]) - m);
  return sum;
}

// By pieces, the sum rescaled when a larger maximum comes: the next piece is on its way from memory while one is
// worked on.
template <class T> Accumulator<T> row_logsumexp(const T* x, int64_t n) {
  using A = Accumulator<T>;
  constexpr int64_t kPiece = 512;
  A m = -std::numeric_limits<A>::infinity(), sum = 0;
  for (int64_t j = 0; j < n; j += kPiece) {
    const int64_t count = std::min(kPiece, n - j);
    const A largest = row_max(x + j, count);
    if (largest > m) sum *= math::exp_negative(m - largest), m = largest;
    sum += row_exp_sum(x + j, m > -std::numeric_limits<A>::infinity() ? m : A{0}, count);
  }
  return sum == A{0} ? m : m + math::log(sum);
}

// power [n] is scratch.
template <class T>
GLIA_CLONES void softmax_row(const T* x, Accumulator<T> m, Accumulator<T>* power, T* y, int64_t n) {
  using A = Accumulator<T>;
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) {
    power[j] = math::exp_negative(static_cast<A>(x[j]) - m);
    sum += power[j];
  }
  const A inverse = A{1} / sum;
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) y[j] = static_cast<T>(power[j] * inverse);
}

template <class T> void softmax(const T* x, T* y, int64_t rows, int64_t n) {
  parallel_for(rows, grain(n), [=](int64_t begin, int64_t end) {
    std::vector<Accumulator<T>> power(static_cast<size_t>(n));
    for (int64_t r = begin; r < end; ++r) softmax_row(x + r * n, row_max(x + r * n, n), power.data(), y + r * n, n);
  });
}

template <class T> GLIA_CLONES void softmax_gradient_row(const T* y, const T* dy, T* dx, int64_t n) {
  using A = Accumulator<T>;
  A dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t j = 0; j < n; ++j) dot += static_cast<A>(y[j]) * static_cast<A>(dy[j]);
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) dx[j] = static_cast<T>(static_cast<A>(y[j]) * (static_cast<A>(dy[j]) - dot));
}

template <class T> void softmax_gradient(const T* y, const T* dy, T* dx, int64_t rows, int64_t n) {
  for_each_row(rows, n, [=](int64_t r) { softmax_gradient_row(y + r * n, dy + r * n, dx + r * n, n); });
}

template <class T> void log_softmax(const T* x, T* y, int64_t rows, int64_t n) {
  using A = Accumulator<T>;
  for_each_row(rows, n, [=](int64_t r) {
    const T* from = x + r * n;
    T* to = y + r * n;
    const A lse = row_logsumexp(from, n);
#pragma GCC ivdep
    for (int64_t j = 0; j < n; ++j) to[j] = static_cast<T>(static_cast<A>(from[j]) - lse);
  });
}

template <class T> GLIA_CLONES void log_softmax_gradient_row(const T* y, const T* dy, T* dx, int64_t n) {
  using A = Accumulator<T>;
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) sum += static_cast<A>(dy[j]);
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j)
    dx[j] = static_cast<T>(static_cast<A>(dy[j]) - math::exp_negative(static_cast<A>(y[j])) * sum);
}

template <class T> void log_softmax_gradient(const T* y, const T* dy, T* dx, int64_t rows, int64_t n) {
  for_each_row(rows, n, [=](int64_t r) { log_softmax_gradient_row(y + r * n, dy + r * n, dx + r * n, n); });
}

template <class T> void logsumexp(const T* x, T* y, Accumulator<T>* lse, int64_t rows, int64_t n) {
  for_each_row(rows, n, [=](int64_t r) {
    lse[r] = row_logsumexp(x + r * n, n);
    if (y) y[r] = static_cast<T>(lse[r]);
  });
}

template <class T>
GLIA_CLONES void scaled_softmax_row(const T* x, Accumulator<T> lse, Accumulator<T> scale, T* dx, int64_t n) {
  using A = Accumulator<T>;
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) dx[j] = static_cast<T>(math::exp_negative(static_cast<A>(x[j]) - lse) * scale);
}

template <class T, class D>
void logsumexp_gradient(const T* x, const Accumulator<T>* lse, const D* dy, const int32_t* labels,
                        const Accumulator<T>* scale, T* dx, int64_t rows, int64_t n) {
  using A = Accumulator<T>;
  for_each_row(rows, n, [=](int64_t r) {
    if (labels && labels[r] == -1) return static_cast<void>(std::fill_n(dx + r * n, n, static_cast<T>(A{0})));
    const A d = labels ? static_cast<A>(*dy) * *scale : static_cast<A>(dy[r]);
    scaled_softmax_row(x + r * n, lse[r], d, dx + r * n, n);
    if (!labels || labels[r] < 0 || labels[r] >= n) return;
    const int64_t c = r * n + labels[r];
    dx[c] = static_cast<T>((math::exp_negative(static_cast<A>(x[c]) - lse[r]) - A{1}) * d);
  });
}

template <class T>
void cross_entropy(const T* x, const int32_t* labels, Accumulator<T>* lse, Accumulator<T>* loss,
                   Accumulator<T>* scale, int64_t rows, int64_t n) {
  using A = Accumulator<T>;
  logsumexp(x, static_cast<T*>(nullptr), lse, rows, n);
  double sum = 0;
  int64_t count = 0;
  for (int64_t r = 0; r < rows; ++r) {
    if (labels[r] == -1) continue;
    ++count;
    const bool valid = labels[r] >= 0 && labels[r] < n;
    sum += valid ? static_cast<double>(lse[r] - static_cast<A>(x[r * n + labels[r]]))
                 : std::numeric_limits<double>::quiet_NaN();
  }
  *loss = count > 0 ? static_cast<A>(sum / static_cast<double>(count)) : A{0};
  *scale = count > 0 ? A{1} / static_cast<A>(count) : A{0};
}

#define INSTANTIATE(T)                                                                                     \
  template void softmax(const T*, T*, int64_t, int64_t);                                                   \
  template void softmax_gradient(const T*, const T*, T*, int64_t, int64_t);                                \
  template void log_softmax(const T*, T*, int64_t, int64_t);                                               \
  template void log_softmax_gradient(const T*, const T*, T*, int64_t, int64_t);                            \
  template void logsumexp(const T*, T*, Accumulator<T>*, int64_t, int64_t);                                \
  template void logsumexp_gradient(const T*, const Accumulator<T>*, const T*, const int32_t*,              \
                                   const Accumulator<T>*, T*, int64_t, int64_t);                           \
  template void cross_entropy(const T*, const int32_t*, Accumulator<T>*, Accumulator<T>*, Accumulator<T>*, \
                              int64_t, int64_t);
GLIA_FOR_FLOATING(INSTANTIATE)
#undef INSTANTIATE
template void logsumexp_gradient(const bfloat16*, const float*, const float*, const int32_t*, const float*,
                                 bfloat16*, int64_t, int64_t);

}  // namespace cpu
}  // namespace glia
