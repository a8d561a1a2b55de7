#include "engine/ops/loss/vocabulary_loss.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/core/math.h"
#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/loss/vocabulary_loss_kernels.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/rows/column_sum.h"
#include "engine/ops/rows/reduce.h"
#include "engine/ops/rows/rows.h"

namespace glia {
namespace {

// Columns of a part: about 16 million logits, so that a product is large and a part is small beside the activations.
int64_t part_of(int64_t rows, int64_t vocabulary) {
  const int64_t columns = (int64_t{1} << 24) / std::max<int64_t>(1, rows) / 64 * 64;
  return std::clamp<int64_t>(columns, 64, std::max<int64_t>(64, vocabulary));
}

void check_vocabulary(const Var& x, const Var& w, const Var& b, const Tensor& targets) {
  CHECK(x.rank() == 2 && w.rank() == 2 && w.size(1) == x.size(1) && b.shape() == Shape{w.size(0)},
        "vocabulary_loss: wants x [M, H], w [V, H], b [V], got {}, {}, {}", x.shape(), w.shape(), b.shape());
  CHECK(b.dtype() == accumulation_dtype(x.dtype()), "vocabulary_loss: wants b in {}, got {}",
        accumulation_dtype(x.dtype()), b.dtype());
  check_index("vocabulary_loss", "targets", targets, {x.size(0)}, x.context());
}

// The logits of columns [first, first + n), without bias, in the accumulation type.     → [M, n]
Tensor part_logits(const Tensor& x, const Tensor& w, int64_t first, int64_t n) {
  Tensor logits = empty(x.context(), {x.size(0), n}, accumulation_dtype(x.dtype()));
  matmul_into(x, w.rows(first, first + n), logits, false, true);
  return logits;
}

template <class F> void for_each_part(int64_t rows, int64_t vocabulary, F&& f) {
  const int64_t part = part_of(rows, vocabulary);
  for (int64_t first = 0; first < vocabulary; first += part) f(first, std::min(part, vocabulary - first));
}

}  // namespace

// L = Σ_m [lse_m − l_m,target] / N over the N rows with a target, l = w x + b.
// dl_mv = (exp(l_mv − lse_m) − [v = target_m]) dL / N;  dx = dl w,  dw = dlᵀ x,  db = Σ_m dl_m.
VocabularyLoss vocabulary_loss(const Var& x, const Var& w, const Var& b, const Tensor& targets) {
  check_vocabulary(x, w, b, targets);
  Context& context = x.context();
  const int64_t rows = x.size(0), vocabulary = w.size(0);
  const DType wide = accumulation_dtype(x.dtype());
  const Tensor from = x.value(), weight = w.value_as(x.dtype()), bias = b.value();
  const auto vector = [&](int64_t n) { return empty(context, {n}, wide); };
  Tensor largest = vector(rows), sum = vector(rows), target = vector(rows), lse = vector(rows);
  Tensor best = empty(context, {rows}, DType::kInt32);
  VocabularyLoss out{{}, vector(rows), vector(3)};
  Tensor loss = empty(context, {}, wide);
  dispatch_floating(wide, "vocabulary_loss", [&](auto tag) {
    using A = typename decltype(tag)::type;
    if constexpr (!std::is_same_v<A, bfloat16>) {
      const VocabularyRows<A> r{largest.data<A>(), sum.data<A>(), target.data<A>(), best.data<int32_t>()};
      const int32_t* wanted = targets.data<int32_t>();
      for_each_part(rows, vocabulary, [&](int64_t first, int64_t n) {
        const Tensor logits = part_logits(from, weight, first, n);
        const A *l = logits.data<A>(), *shift = bias.data<A>() + first;
        on_device(
            context, "vocabulary_loss/rows", [&] { cpu::vocabulary_rows(l, shift, wanted, rows, n, first, r); },
            [&](auto& cuda) { cuda::vocabulary_rows(l, shift, wanted, rows, n, first, r, cuda.stream); });
      });
      A *e = lse.data<A>(), *losses = out.row_losses.data<A>(), *mean = loss.data<A>(), *sums = out.sums.data<A>();
      on_device(
          context, "vocabulary_loss",
          [&] { cpu::vocabulary_finish(r, wanted, rows, vocabulary, e, losses, mean, sums); },
          [&](auto& cuda) {
            cuda::vocabulary_finish(r, wanted, rows, vocabulary, e, losses, mean, sums, cuda.stream);
          });
    }
  });
  out.loss = record(
      "vocabulary_loss", loss, {x, w, b},
      [from, weight, bias, targets, lse, sums = out.sums](const Tensor& dy, Grads& in) {
        Context& context = from.context();
        const int64_t rows = from.size(0), vocabulary = weight.size(0);
        const DType wide = lse.dtype();
        Tensor dx = in.wants(0) ? zeros(context, from.shape(), wide) : Tensor();
        Tensor dw = in.wants(1) ? in.buffer(1, wide) : Tensor(), db = in.wants(2) ? in.buffer(2, wide) : Tensor();
        const Tensor part = in.wants(0) ? empty(context, from.shape(), wide) : Tensor();
        for_each_part(rows, vocabulary, [&](int64_t first, int64_t n) {
          const Tensor logits = part_logits(from, weight, first, n);
          Tensor dl = empty(context, {rows, n}, from.dtype());
          dispatch_floating(from.dtype(), "vocabulary_loss", [&](auto tag) {
            using T = typename decltype(tag)::type;
            using A = Accumulator<T>;
            const A *l = logits.data<A>(), *shift = bias.data<A>() + first, *e = lse.data<A>(), *s = sums.data<A>();
            const int32_t* wanted = targets.data<int32_t>();
            on_device(
                context, "vocabulary_loss/gradient",
                [&] {
                  cpu::vocabulary_gradient(l, shift, wanted, e, s, dy.data<A>(), rows, n, first, dl.data<T>());
                },
                [&](auto& cuda) {
                  cuda::vocabulary_gradient(l, shift, wanted, e, s, dy.data<A>(), rows, n, first, dl.data<T>(),
                                            cuda.stream);
                });
          });
          if (dx.defined()) {
            matmul_into(dl, weight.rows(first, first + n), part, false, false);
            accumulate(dx, part);
          }
          if (dw.defined()) matmul_into(dl, from, dw.rows(first, first + n), true, false);
          if (db.defined()) column_sum(dl, db.rows(first, first + n));
        });
        if (dx.defined()) in.add_cast(0, dx);
        if (dw.defined()) in.add_cast(1, dw);
        if (db.defined()) in.add_cast(2, db);
      });
  return out;
}

Var vocabulary_loss_reference(const Var& x, const Var& w, const Var& b, const Tensor& targets) {
  check_vocabulary(x, w, b, targets);
  const Var logits = linear(cast(x, w.dtype()), w, b);
  const std::vector<int32_t> wanted = targets.to_vector<int32_t>();
  std::vector<int32_t> index, labels;
  for (size_t m = 0; m < wanted.size(); ++m)
    if (wanted[m] >= 0) index.push_back(static_cast<int32_t>(m)), labels.push_back(wanted[m]);
  if (index.empty()) return scale(sum(logits), 0);
  const auto count = static_cast<int64_t>(index.size());
  return cross_entropy(gather_rows(logits, from_vector(x.context(), index, {count})),
                       from_vector(x.context(), labels, {count}));
}

namespace cpu {

template <class A>
void vocabulary_rows(const A* logits, const A* b, const int32_t* targets, int64_t rows, int64_t n, int64_t first,
                     const VocabularyRows<A>& r) {
  parallel_for(rows, 1, [=](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      const A* l = logits + m * n;
      A largest = first ? r.largest[m] : -std::numeric_limits<A>::infinity();
      int32_t best = first ? r.best[m] : 0;
      for (int64_t j = 0; j < n; ++j)
        if (const A x = l[j] + b[j]; x > largest) largest = x, best = static_cast<int32_t>(first + j);
      A sum = first ? r.sum[m] * std::exp(r.largest[m] - largest) : A{0};
      for (int64_t j = 0; j < n; ++j) sum += std::exp(l[j] + b[j] - largest);
      r.largest[m] = largest, r.sum[m] = sum, r.best[m] = best;
      const int64_t column = targets[m] - first;
      if (column >= 0 && column < n) r.target[m] = l[column] + b[column];
    }
  });
}

template <class A>
void vocabulary_finish(const VocabularyRows<A>& r, const int32_t* targets, int64_t rows, int64_t vocabulary, A* lse,
                       A* losses, A* loss, A* sums) {
  double total = 0, count = 0, right = 0;
  for (int64_t m = 0; m < rows; ++m) {
    lse[m] = r.largest[m] + std::log(r.sum[m]);
    const bool counts = targets[m] != -1, valid = targets[m] >= 0 && targets[m] < vocabulary;
    losses[m] = !counts ? A{0} : valid ? lse[m] - r.target[m] : std::numeric_limits<A>::quiet_NaN();
    total += static_cast<double>(losses[m]);
    count += counts;
    right += counts && r.best[m] == targets[m];
  }
  *loss = static_cast<A>(count > 0 ? total / count : 0);
  sums[0] = static_cast<A>(total), sums[1] = static_cast<A>(count), sums[2] = static_cast<A>(right);
}

template <class A, class T>
void vocabulary_gradient(const A* logits, const A* b, const int32_t* targets, const A* lse, const A* sums,
                         const A* dloss, int64_t rows, int64_t n, int64_t first, T* dlogits) {
  const A scale = *dloss / std::max(sums[1], A{1});
  parallel_for(rows, 1, [=](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      T* to = dlogits + m * n;
      if (targets[m] == -1) {
        std::fill(to, to + n, static_cast<T>(A{0}));
        continue;
      }
      const A* l = logits + m * n;
      for (int64_t j = 0; j < n; ++j) {
        const A hit = first + j == targets[m] ? A{1} : A{0};
        to[j] = static_cast<T>((std::exp(l[j] + b[j] - lse[m]) - hit) * scale);
      }
    }
  });
}

#define INSTANTIATE(A)                                                                                         \
  template void vocabulary_rows(const A*, const A*, const int32_t*, int64_t, int64_t, int64_t,                 \
                                const VocabularyRows<A>&);                                                     \
  template void vocabulary_finish(const VocabularyRows<A>&, const int32_t*, int64_t, int64_t, A*, A*, A*, A*); \
  template void vocabulary_gradient(const A*, const A*, const int32_t*, const A*, const A*, const A*, int64_t, \
                                    int64_t, int64_t, A*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE
template void vocabulary_gradient(const float*, const float*, const int32_t*, const float*, const float*,
                                  const float*, int64_t, int64_t, int64_t, bfloat16*);

}  // namespace cpu
}  // namespace glia
