#include "engine/ops/norm/layer_norm.h"

#include <array>
#include <cmath>
#include <vector>

#include "engine/core/clones.h"
#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/elementwise/dropout.h"
#include "engine/ops/elementwise/dropout_words.h"
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/norm/layer_norm_kernels.h"
#include "engine/ops/rows/bias.h"

namespace glia {
namespace {

// y = m' ∘ (gain ∘ ŝ + bias), ŝ = (s − mean) rstd, s = residual + m ∘ (x + input_bias); m, m' are keep / (1 − p)
// or 1. d = m' ∘ dy, g = d ∘ gain;  ds = rstd (g − mean(g) − ŝ mean(g ∘ ŝ)), dx = m ∘ ds;  dgain = Σ_rows d ∘ ŝ,
// dbias = Σ_rows d, dinput_bias = Σ_rows dx. s is computed again from x and residual: as many bytes as storing it
// would move, and no rounding.
Var normalise(const char* op, const Var& x, const Var& residual, const Var& gain, const Var& bias,
              const Var& input_bias, LayerNormShape shape) {
  check_along_last(op, "a gain", x, gain);
  check_along_last(op, "a bias", x, bias);
  if (input_bias.defined()) check_along_last(op, "an input bias", x, input_bias);
  CHECK(x.size(-1) >= 1, "{}: wants [.., N] with N >= 1, got {}", op, x.shape());
  CHECK(shape.eps >= 0, "{}: wants eps >= 0, got {}", op, shape.eps);
  for (const double p : {shape.p, shape.output_p}) CHECK(p >= 0 && p < 1, "{}: wants 0 <= p < 1, got {}", op, p);
  shape.rows = leading_rows(x.value()), shape.n = x.size(-1);
  const DType sums = accumulation_dtype(x.dtype());
  const Tensor from = x.value(), skip = residual.defined() ? residual.value() : Tensor();
  const Tensor scale = gain.value_as(sums), shift = bias.value_as(sums),
               before = input_bias.defined() ? input_bias.value_as(sums) : Tensor();
  const auto inputs = [from, skip, scale, before]<class T>(TypeTag<T>) {
    using A = Accumulator<T>;
    return LayerNormInputs<T>{from.data<T>(), data_or_null<T>(skip), data_or_null<A>(before), scale.data<A>()};
  };
  Tensor y = empty_like(from), mean = empty(x.context(), {shape.rows}, sums), rstd = empty_like(mean);
  dispatch_floating(x.dtype(), op, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Accumulator<T>;
    const auto in = inputs(tag);
    on_device(
        x.context(), op,
        [&] { cpu::layer_norm(shape, in, shift.data<A>(), y.data<T>(), mean.data<A>(), rstd.data<A>()); },
        [&](auto& cuda) {
          cuda::layer_norm(shape, in, shift.data<A>(), y.data<T>(), mean.data<A>(), rstd.data<A>(), cuda.stream);
        });
  });
  return record_summing(
      op, y, {x, residual, gain, bias, input_bias},
      [shape, inputs, from, scale, mean, rstd](std::span<const Tensor> dy, Grads& in) {
        // Without dropout both summands have the same gradient: one tensor, shared, so it must not be a leaf's own
        // buffer.
        const bool shared = shape.p == 0 && in.wants(1);
        Tensor dx = in.wants(0) && !shared ? in.buffer(0) : empty_like(from);
        Tensor dskip = in.wants(1) && !shared ? in.buffer(1) : Tensor();
        if (dskip.defined() && dskip.raw() == dx.raw()) dskip = empty_like(dx);  // one leaf twice, with one buffer
        std::array<Tensor, 3> sums;  // the gradients of gain, bias and input bias
        for (size_t i = 0; i < 3; ++i) {
          if (i == 2 && !in.wants(4)) continue;
          sums[i] = in.wants(2 + i) ? in.buffer(2 + i, scale.dtype()) : empty_like(scale);
          for (size_t j = 0; j < i; ++j)
            if (sums[i].raw() == sums[j].raw()) sums[i] = empty_like(scale);  // the same
        }
        dispatch_floating(from.dtype(), "layer_norm", [&](auto tag) {
          using T = typename decltype(tag)::type;
          using A = Accumulator<T>;
          Terms<T> terms{{}, static_cast<int>(dy.size())};
          for (size_t i = 0; i < dy.size(); ++i) terms.term[i] = dy[i].template data<T>();
          const LayerNormGradients<T> out{dx.data<T>(), data_or_null<T>(dskip), sums[0].data<A>(),
                                          sums[1].data<A>(), data_or_null<A>(sums[2])};
          on_device(
              from.context(), "layer_norm/gradient",
              [&] { cpu::layer_norm_gradient(shape, inputs(tag), mean.data<A>(), rstd.data<A>(), terms, out); },
              [&](auto& cuda) {
                Tensor partial =
                    empty(from.context(), {cuda::layer_norm_chunks(shape.rows), 3, shape.n}, scale.dtype());
                cuda::layer_norm_gradient(shape, inputs(tag), mean.data<A>(), rstd.data<A>(), terms, out,
                                          partial.data<A>(), cuda.stream);
              });
        });
        in.add(0, dx);
        if (in.wants(1)) in.add(1, shared ? dx : dskip);
        for (size_t i = 0; i < 3; ++i)
          if (sums[i].defined()) in.add_cast(2 + i, sums[i]);
      });
}

}  // namespace

Var layer_norm(const Var& x, const Var& gain, const Var& bias, double eps) {
  LayerNormShape shape;
  shape.eps = eps;
  return normalise("layer_norm", x, {}, gain, bias, {}, shape);
}

Var dropout_residual_layer_norm(const Var& x, const Var& residual, const Var& gain, const Var& bias, double eps,
                                double p, const RandomKey& key, const LayerNormExtras& extras) {
  const char* op = "dropout_residual_layer_norm";
  if (residual.defined()) check_same(op, x, residual);
  LayerNormShape shape;
  shape.eps = eps, shape.p = p, shape.output_p = extras.output_p;
  shape.key = row_key(op, key, x.size(-1)), shape.output_key = row_key(op, extras.output_key, x.size(-1));
  return normalise(op, x, residual, gain, bias, extras.input_bias, shape);
}

Var dropout_residual_layer_norm_reference(const Var& x, const Var& residual, const Var& gain, const Var& bias,
                                          double eps, double p, const RandomKey& key,
                                          const LayerNormExtras& extras) {
  const Var biased = extras.input_bias.defined() ? bias_add(x, extras.input_bias) : x;
  const Var dropped = dropout(biased, p, key);
  return dropout(layer_norm(residual.defined() ? add(residual, dropped) : dropped, gain, bias, eps),
                 extras.output_p, extras.output_key);
}

namespace cpu {
namespace {

constexpr int64_t kNear = 1024;  // elements of a row
constexpr int64_t kRows = 32;    // of a chunk: the unit of work and of the parameter gradients' partial sums

// What a thread needs to work on one row at a time.
template <class A> struct RowBuffers {
  explicit RowBuffers(const LayerNormShape& s)
      : sums(static_cast<size_t>(s.n)),
        words(static_cast<size_t>(s.p > 0 || s.output_p > 0 ? s.n + kWordSlack : 0)) {}
  std::vector<A> sums;
  std::vector<uint32_t> words;
};

template <class A> struct Mask {
  explicit Mask(double p) : threshold(bernoulli_threshold(p)), scale(static_cast<A>(1 / (1 - p))) {}
  uint32_t threshold;
  A scale;
};

}  // namespace

// s = residual + keep ∘ (x + bias) · scale; words, bias and residual may be nullptr.
template <class T>
GLIA_CLONES void sum_row(const T* x, const Accumulator<T>* bias, const T* residual, const uint32_t* words,
                         uint32_t threshold, Accumulator<T> scale, Accumulator<T>* s, int64_t n) {
  using A = Accumulator<T>;
  const auto write = [=](auto value) __attribute__((always_inline)) {
    if (residual) {
#pragma GCC ivdep
      for (int64_t j = 0; j < n; ++j) s[j] = value(j) + static_cast<A>(residual[j]);
    } else {
#pragma GCC ivdep
      for (int64_t j = 0; j < n; ++j) s[j] = value(j);
    }
  };
  if (words && bias)
    write([=](int64_t j) { return keep(words[j], threshold, (static_cast<A>(x[j]) + bias[j]) * scale); });
  else if (words) write([=](int64_t j) { return keep(words[j], threshold, static_cast<A>(x[j]) * scale); });
  else if (bias) write([=](int64_t j) { return static_cast<A>(x[j]) + bias[j]; });
  else write([=](int64_t j) { return static_cast<A>(x[j]); });
}

// y may be s.
template <class A>
GLIA_CLONES void normalise_row(const A* s, const A* gain, const A* bias, A eps, A* y, A* mean, A* rstd, int64_t n) {
  A sum = 0, square = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) sum += s[j];
  const A m = sum / static_cast<A>(n);
#pragma omp simd reduction(+ : square)
  for (int64_t j = 0; j < n; ++j) square += (s[j] - m) * (s[j] - m);
  const A inverse = A{1} / std::sqrt(square / static_cast<A>(n) + eps);
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) y[j] = (s[j] - m) * inverse * gain[j] + bias[j];
  *mean = m, *rstd = inverse;
}

// ds (which may be s) from s and d = dy; adds to gain_sum and bias_sum.
template <class A>
GLIA_CLONES void gradient_row(const A* s, const A* d, const A* gain, A mean, A rstd, A* gain_sum, A* bias_sum,
                              A* ds, int64_t n) {
  A sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
  for (int64_t j = 0; j < n; ++j) {
    const A g = d[j] * gain[j];
    sum += g, dot += g * ((s[j] - mean) * rstd);
  }
  sum /= static_cast<A>(n), dot /= static_cast<A>(n);
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) {
    const A v = (s[j] - mean) * rstd;
    gain_sum[j] += d[j] * v;
    bias_sum[j] += d[j];
    ds[j] = (d[j] * gain[j] - sum - v * dot) * rstd;
  }
}

template <class T, class A> GLIA_CLONES void sum_terms_row(const T* term, bool add, A* d, int64_t n) {
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) d[j] = (add ? d[j] : A{0}) + static_cast<A>(term[j]);
}

// s = keep ∘ s · scale, and a row's sums: all in the first cache.
template <class A> GLIA_CLONES void drop_row(A* s, const uint32_t* words, uint32_t threshold, A scale, int64_t n) {
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) s[j] = keep(words[j], threshold, s[j] * scale);
}

template <class A> GLIA_CLONES void add_row(const A* s, A* sum, int64_t n) {
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) sum[j] += s[j];
}

template <class T> GLIA_CLONES void store_row(const Accumulator<T>* s, T* y, int64_t n) {
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) y[j] = static_cast<T>(s[j]);
}

template <class T>
GLIA_CLONES void store_kept_row(const Accumulator<T>* s, const uint32_t* words, uint32_t threshold,
                                Accumulator<T> scale, T* y, int64_t n) {
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) y[j] = static_cast<T>(keep(words[j], threshold, s[j] * scale));
}

template <class T>
void layer_norm(const LayerNormShape& shape, const LayerNormInputs<T>& in, const Accumulator<T>* bias, T* y,
                Accumulator<T>* mean, Accumulator<T>* rstd) {
  using A = Accumulator<T>;
  const int64_t n = shape.n;
  const Mask<A> mask(shape.p), output_mask(shape.output_p);
  const bool drops = shape.p > 0 || shape.output_p > 0;
  parallel_for(shape.rows, kRows, [&](int64_t begin, int64_t end) {
    RowBuffers<A> buffers(shape);
    A* s = buffers.sums.data();
    for (int64_t r = begin; r < end; ++r) {
      const int64_t at = r * n;
      const T* skip = in.residual ? in.residual + at : nullptr;
      if (drops && r + 1 < end)
        prefetch(in.x + at + n, n), prefetch(skip ? skip + n : nullptr, n), prefetch(y + at + n, n);
      const uint32_t* words = shape.p > 0 ? draw_words(shape.key, at, n, buffers.words.data()) : nullptr;
      sum_row(in.x + at, in.input_bias, skip, words, mask.threshold, mask.scale, s, n);
      A* normal = s;
      if constexpr (std::is_same_v<T, A>) normal = shape.output_p > 0 ? s : y + at;
      normalise_row(s, in.gain, bias, static_cast<A>(shape.eps), normal, mean + r, rstd + r, n);
      if (shape.output_p > 0)
        store_kept_row(normal, draw_words(shape.output_key, at, n, buffers.words.data()), output_mask.threshold,
                       output_mask.scale, y + at, n);
      else if (static_cast<const void*>(normal) != y + at) store_row(normal, y + at, n);
    }
  });
}

template <class T>
void layer_norm_gradient(const LayerNormShape& shape, const LayerNormInputs<T>& in, const Accumulator<T>* mean,
                         const Accumulator<T>* rstd, const Terms<T>& dy, const LayerNormGradients<T>& out) {
  using A = Accumulator<T>;
  const int64_t n = shape.n, chunks = (shape.rows + kRows - 1) / kRows, sums = out.dinput_bias ? 3 : 2;
  const Mask<A> mask(shape.p), output_mask(shape.output_p);
  std::vector<A> partial(static_cast<size_t>(chunks * sums * n), A{0});
  parallel_for(shape.rows, kRows, [&](int64_t begin, int64_t end) {
    RowBuffers<A> buffers(shape);
    std::vector<A> gradient(static_cast<size_t>(n));
    A *own = buffers.sums.data(), *gain_sum = &partial[begin / kRows * sums * n];
    for (int64_t r = begin; r < end; ++r) {
      const int64_t at = r * n;
      const T* skip = in.residual ? in.residual + at : nullptr;
      // The next row, a piece at a time between the steps, as far as the first cache holds two rows; the writes of
      // this one else.
      const auto ahead = [=](const T* p) __attribute__((always_inline)) {
        if (p && n <= kNear && r + 1 < end) prefetch(p + at + n, n);
      };
      if (n > kNear) prefetch(out.dx + at, n);
      ahead(in.x), ahead(in.residual);
      const A *s = own, *d = gradient.data();
      A* ds = own;
      // Rows that are there already in the accumulation type are not copied.
      if constexpr (std::is_same_v<T, A>) {
        if (shape.p == 0 && !skip && !in.input_bias) s = in.x + at;
        if (shape.output_p == 0 && dy.count == 1) d = dy.term[0] + at;
        if (shape.p == 0) ds = out.dx + at;
      }
      for (int t = 0; d == gradient.data() && t < dy.count; ++t)  // d = term 0, then d += term t
        sum_terms_row(dy.term[t] + at, t > 0, gradient.data(), n);
      if (shape.output_p > 0)
        drop_row(gradient.data(), draw_words(shape.output_key, at, n, buffers.words.data()), output_mask.threshold,
                 output_mask.scale, n);
      const uint32_t* words = shape.p > 0 ? draw_words(shape.key, at, n, buffers.words.data()) : nullptr;
      ahead(dy.term[0]), ahead(out.dx);
      if (s == own) sum_row(in.x + at, in.input_bias, skip, words, mask.threshold, mask.scale, own, n);
      gradient_row(s, d, in.gain, mean[r], rstd[r], gain_sum, gain_sum + n, ds, n);
      ahead(out.dresidual);
      if (out.dresidual) store_row(ds, out.dresidual + at, n);
      if (words && !out.dinput_bias) {
        store_kept_row(ds, words, mask.threshold, mask.scale, out.dx + at, n);
        continue;
      }
      if (words) drop_row(ds, words, mask.threshold, mask.scale, n);
      if (out.dinput_bias) add_row(ds, gain_sum + 2 * n, n);
      if (static_cast<const void*>(ds) != out.dx + at) store_row(ds, out.dx + at, n);
    }
  });
  A* const totals[] = {out.dgain, out.dbias, out.dinput_bias};
  for (int64_t k = 0; k < sums; ++k) {
    std::fill(totals[k], totals[k] + n, A{0});
    for (int64_t c = 0; c < chunks; ++c) add_row(&partial[(c * sums + k) * n], totals[k], n);
  }
}

#define INSTANTIATE(T)                                                                                       \
  template void layer_norm(const LayerNormShape&, const LayerNormInputs<T>&, const Accumulator<T>*, T*,      \
                           Accumulator<T>*, Accumulator<T>*);                                                \
  template void layer_norm_gradient(const LayerNormShape&, const LayerNormInputs<T>&, const Accumulator<T>*, \
                                    const Accumulator<T>*, const Terms<T>&, const LayerNormGradients<T>&);
GLIA_FOR_FLOATING(INSTANTIATE)
#undef INSTANTIATE

}  // namespace cpu
}  // namespace glia
