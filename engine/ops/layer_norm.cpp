#include "engine/ops/layer_norm.h"

#include <cmath>
#include <vector>

#include "engine/core/clones.h"
#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/dropout.h"
#include "engine/ops/dropout_words.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/layer_norm_kernels.h"

namespace glia {
namespace {

// y = gain ∘ ŝ + bias, ŝ = (s − mean) rstd, s = residual + dropout(x).
// g = dy ∘ gain;  ds = rstd (g − mean(g) − ŝ mean(g ∘ ŝ));  dgain = Σ_rows dy ∘ ŝ, dbias = Σ_rows dy.
// s is computed again from x and residual: as many bytes as storing it would move, and no rounding.
Var normalise(const char* op, const Var& x, const Var& residual, const Var& gain, const Var& bias, LayerNormShape shape) {
  check_along_last(op, "a gain", x, gain);
  check_along_last(op, "a bias", x, bias);
  CHECK(x.size(-1) >= 1, "{}: wants [.., N] with N >= 1, got {}", op, x.shape());
  CHECK(shape.eps >= 0, "{}: wants eps >= 0, got {}", op, shape.eps);
  shape.rows = leading_rows(x.value()), shape.n = x.size(-1);
  const DType sums = accumulation_dtype(x.dtype());
  const Tensor from = x.value(), skip = residual.defined() ? residual.value() : Tensor();
  const Tensor scale = gain.value_as(sums), shift = bias.value_as(sums);
  Tensor y = empty_like(from), mean = empty(x.context(), {shape.rows}, sums), rstd = empty_like(mean);
  dispatch_floating(x.dtype(), op, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Accumulator<T>;
    const T* r = skip.defined() ? skip.data<T>() : nullptr;
    on_device(x.context(), op,
              [&] {
                cpu::layer_norm(shape, from.data<T>(), r, scale.data<A>(), shift.data<A>(), y.data<T>(), mean.data<A>(),
                                rstd.data<A>());
              },
              [&](auto& cuda) {
                cuda::layer_norm(shape, from.data<T>(), r, scale.data<A>(), shift.data<A>(), y.data<T>(), mean.data<A>(),
                                 rstd.data<A>(), cuda.stream);
              });
  });
  return record_summing(op, y, {x, gain, bias, residual},
                [shape, from, skip, scale, mean, rstd, type = gain.dtype(), bias_type = bias.dtype()](std::span<const Tensor> dy, Grads& in) {
    // Without dropout both summands have the same gradient: one tensor, shared, so it must not be a leaf's own buffer.
    const bool shared = shape.p == 0 && in.wants(3);
    Tensor dx = in.wants(0) && !shared ? in.buffer(0) : empty_like(from);
    Tensor dskip = in.wants(3) && !shared ? in.buffer(3) : Tensor();
    Tensor dgain = in.wants(1) && type == scale.dtype() ? in.buffer(1) : empty_like(scale);
    Tensor dbias = in.wants(2) && bias_type == scale.dtype() ? in.buffer(2) : empty_like(scale);
    if (dskip.defined() && dskip.raw() == dx.raw()) dskip = empty_like(dx);  // one leaf twice, with one buffer
    if (dbias.raw() == dgain.raw()) dbias = empty_like(dgain);
    dispatch_floating(from.dtype(), "layer_norm", [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = Accumulator<T>;
      Terms<T> terms{{}, static_cast<int>(dy.size())};
      for (size_t i = 0; i < dy.size(); ++i) terms.term[i] = dy[i].template data<T>();
      const T* r = skip.defined() ? skip.data<T>() : nullptr;
      T* dr = dskip.defined() ? dskip.data<T>() : nullptr;
      on_device(from.context(), "layer_norm/gradient",
                [&] {
                  cpu::layer_norm_gradient(shape, from.data<T>(), r, scale.data<A>(), mean.data<A>(), rstd.data<A>(), terms,
                                           dx.data<T>(), dr, dgain.data<A>(), dbias.data<A>());
                },
                [&](auto& cuda) {
                  Tensor partial = empty(from.context(), {cuda::layer_norm_chunks(shape.rows), 2, shape.n}, scale.dtype());
                  cuda::layer_norm_gradient(shape, from.data<T>(), r, scale.data<A>(), mean.data<A>(), rstd.data<A>(),
                                            terms, dx.data<T>(), dr, partial.data<A>(), dgain.data<A>(),
                                            dbias.data<A>(), cuda.stream);
                });
    });
    in.add(0, dx);
    if (in.wants(1)) in.add(1, cast(dgain, type));
    if (in.wants(2)) in.add(2, cast(dbias, bias_type));
    if (in.wants(3)) in.add(3, shared ? dx : dskip);
  });
}

}  // namespace

Var layer_norm(const Var& x, const Var& gain, const Var& bias, double eps) {
  LayerNormShape shape;
  shape.eps = eps;
  return normalise("layer_norm", x, {}, gain, bias, shape);
}

Var dropout_residual_layer_norm(const Var& x, const Var& residual, const Var& gain, const Var& bias, double eps, double p,
                                const RandomKey& key) {
  const char* op = "dropout_residual_layer_norm";
  check_same(op, x, residual);
  CHECK(p >= 0 && p < 1, "{}: wants 0 <= p < 1, got {}", op, p);
  LayerNormShape shape;
  shape.eps = eps, shape.p = p, shape.key = key;
  return normalise(op, x, residual, gain, bias, shape);
}

Var dropout_residual_layer_norm_reference(const Var& x, const Var& residual, const Var& gain, const Var& bias, double eps,
                                          double p, const RandomKey& key) {
  return layer_norm(add(residual, dropout(x, p, key)), gain, bias, eps);
}

namespace cpu {
namespace {

constexpr int64_t kRows = 32;  // of a chunk: the unit of work and of the parameter gradients' partial sums

// What a thread needs to work on one row at a time.
template <class A>
struct RowBuffers {
  explicit RowBuffers(const LayerNormShape& s)
      : sums(static_cast<size_t>(s.n)), words(static_cast<size_t>(s.p > 0 ? s.n + kWordSlack : 0)) {}
  std::vector<A> sums;
  std::vector<uint32_t> words;
};

}  // namespace

// s = residual + keep ∘ x · scale; words, residual or both may be nullptr.
template <class T>
GLIA_CLONES void sum_row(const T* x, const T* residual, const uint32_t* words, uint32_t threshold, Accumulator<T> scale,
                         Accumulator<T>* s, int64_t n) {
  using A = Accumulator<T>;
  if (words) {
#pragma GCC ivdep
    for (int64_t j = 0; j < n; ++j) s[j] = keep(words[j], threshold, static_cast<A>(x[j]) * scale);
  } else {
#pragma GCC ivdep
    for (int64_t j = 0; j < n; ++j) s[j] = static_cast<A>(x[j]);
  }
  if (residual) {
#pragma GCC ivdep
    for (int64_t j = 0; j < n; ++j) s[j] += static_cast<A>(residual[j]);
  }
}

template <class T>
GLIA_CLONES void normalise_row(const Accumulator<T>* s, const Accumulator<T>* gain, const Accumulator<T>* bias, Accumulator<T> eps,
                               T* y, Accumulator<T>* mean, Accumulator<T>* rstd, int64_t n) {
  using A = Accumulator<T>;
  A sum = 0, square = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) sum += s[j];
  const A m = sum / static_cast<A>(n);
#pragma omp simd reduction(+ : square)
  for (int64_t j = 0; j < n; ++j) square += (s[j] - m) * (s[j] - m);
  const A inverse = A{1} / std::sqrt(square / static_cast<A>(n) + eps);
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) y[j] = static_cast<T>((s[j] - m) * inverse * gain[j] + bias[j]);
  *mean = m, *rstd = inverse;
}

// ds from s and d = dy, by way of normal = ŝ (which may be s); adds to gain_sum and bias_sum.
template <class T, class A>
GLIA_CLONES void gradient_row(const A* s, A* normal, const A* d, const A* gain, A mean, A rstd, A* gain_sum, A* bias_sum, T* ds, int64_t n) {
  A sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
  for (int64_t j = 0; j < n; ++j) {
    const A g = d[j] * gain[j], v = (s[j] - mean) * rstd;
    normal[j] = v;
    sum += g, dot += g * v;
  }
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) {
    gain_sum[j] += d[j] * normal[j];
    bias_sum[j] += d[j];
  }
  sum /= static_cast<A>(n), dot /= static_cast<A>(n);
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) ds[j] = static_cast<T>((d[j] * gain[j] - sum - normal[j] * dot) * rstd);
}

template <class T, class A>
GLIA_CLONES void sum_terms_row(const T* term, bool add, A* d, int64_t n) {
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) d[j] = (add ? d[j] : A{0}) + static_cast<A>(term[j]);
}

template <class T>
GLIA_CLONES void store_row(const Accumulator<T>* s, T* y, int64_t n) {
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) y[j] = static_cast<T>(s[j]);
}

template <class T>
GLIA_CLONES void store_kept_row(const Accumulator<T>* s, const uint32_t* words, uint32_t threshold, Accumulator<T> scale, T* y, int64_t n) {
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) y[j] = static_cast<T>(keep(words[j], threshold, s[j] * scale));
}

template <class T>
void layer_norm(const LayerNormShape& shape, const T* x, const T* residual, const Accumulator<T>* gain,
                const Accumulator<T>* bias, T* y, Accumulator<T>* mean, Accumulator<T>* rstd) {
  using A = Accumulator<T>;
  const int64_t n = shape.n;
  const uint32_t threshold = bernoulli_threshold(shape.p);
  const A scale = static_cast<A>(1 / (1 - shape.p)), eps = static_cast<A>(shape.eps);
  parallel_for(shape.rows, kRows, [&](int64_t begin, int64_t end) {
    RowBuffers<A> buffers(shape);
    A* s = buffers.sums.data();
    for (int64_t r = begin; r < end; ++r) {
      const T* skip = residual ? residual + r * n : nullptr;
      const uint32_t* words = nullptr;
      if (shape.p > 0) {
        prefetch(x + r * n, n), prefetch(skip, n), prefetch(y + r * n, n);
        words = draw_words(shape.key, r * n, n, buffers.words.data());
      }
      sum_row(x + r * n, skip, words, threshold, scale, s, n);
      normalise_row(s, gain, bias, eps, y + r * n, mean + r, rstd + r, n);
    }
  });
}

template <class T>
void layer_norm_gradient(const LayerNormShape& shape, const T* x, const T* residual, const Accumulator<T>* gain,
                         const Accumulator<T>* mean, const Accumulator<T>* rstd, const Terms<T>& dy, T* dx, T* dresidual,
                         Accumulator<T>* dgain, Accumulator<T>* dbias) {
  using A = Accumulator<T>;
  const int64_t n = shape.n, chunks = (shape.rows + kRows - 1) / kRows;
  const uint32_t threshold = bernoulli_threshold(shape.p);
  const A scale = static_cast<A>(1 / (1 - shape.p));
  std::vector<A> partial(static_cast<size_t>(chunks * 2 * n), A{0});
  parallel_for(shape.rows, kRows, [&](int64_t begin, int64_t end) {
    RowBuffers<A> buffers(shape);
    std::vector<A> gradient(static_cast<size_t>(n));
    A *sums = buffers.sums.data(), *gain_sum = &partial[begin / kRows * 2 * n];
    for (int64_t r = begin; r < end; ++r) {
      const T* skip = residual ? residual + r * n : nullptr;
      const uint32_t* words = nullptr;
      if (shape.p > 0) {
        prefetch(x + r * n, n), prefetch(skip, n), prefetch(dy.term[0] + r * n, n), prefetch(dx + r * n, n);
        words = draw_words(shape.key, r * n, n, buffers.words.data());
      }
      const A *s = sums, *d = gradient.data();
      // Rows that are there already in the accumulation type are not copied.
      if constexpr (std::is_same_v<T, A>) {
        if (!words && !residual) s = x + r * n;
        if (dy.count == 1) d = dy.term[0] + r * n;
      }
      if (s == sums) sum_row(x + r * n, skip, words, threshold, scale, sums, n);
      for (int t = 0; d == gradient.data() && t < dy.count; ++t)  // d = term 0, then d += term t
        sum_terms_row(dy.term[t] + r * n, t > 0, gradient.data(), n);
      if (!words) {
        gradient_row(s, sums, d, gain, mean[r], rstd[r], gain_sum, gain_sum + n, dx + r * n, n);
        continue;
      }
      gradient_row(s, sums, d, gain, mean[r], rstd[r], gain_sum, gain_sum + n, sums, n);
      if (dresidual) store_row(sums, dresidual + r * n, n);
      store_kept_row(sums, words, threshold, scale, dx + r * n, n);
    }
  });
  std::fill(dgain, dgain + n, A{0});
  std::fill(dbias, dbias + n, A{0});
  for (int64_t c = 0; c < chunks; ++c)
    for (int64_t j = 0; j < n; ++j) dgain[j] += partial[2 * c * n + j], dbias[j] += partial[(2 * c + 1) * n + j];
}

#define INSTANTIATE(T)                                                                                                       \
  template void layer_norm(const LayerNormShape&, const T*, const T*, const Accumulator<T>*, const Accumulator<T>*, T*,      \
                           Accumulator<T>*, Accumulator<T>*);                                                                \
  template void layer_norm_gradient(const LayerNormShape&, const T*, const T*, const Accumulator<T>*, const Accumulator<T>*, \
                                    const Accumulator<T>*, const Terms<T>&, T*, T*, Accumulator<T>*, Accumulator<T>*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace cpu
}  // namespace glia
