#include "engine/ops/loss/vocabulary_loss.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

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

// Logits that are held at a time: few beside the activations, and enough for large products.
constexpr int64_t kLogitsOnHost = int64_t{1} << 24, kLogitsOnGpu = int64_t{1} << 27;

// Rows of a part: as many in each, in steps of 128, as tiles of products want them.
int64_t rows_of_part(Context& context, int64_t rows, int64_t room) {
  const int64_t most = context.device().is_cuda() ? kLogitsOnGpu : kLogitsOnHost;
  const int64_t parts = std::max<int64_t>(1, (rows * room + most - 1) / most);
  return (rows + parts * 128 - 1) / (parts * 128) * 128;
}

void check_vocabulary(const Var& x, const Var& w, const Var& b, const Tensor& targets) {
  CHECK(x.rank() == 2 && w.rank() == 2 && w.size(1) == x.size(1) && b.shape() == Shape{w.size(0)},
        "vocabulary_loss: wants x [M, H], w [V, H], b [V], got {}, {}, {}", x.shape(), w.shape(), b.shape());
  CHECK(b.dtype() == accumulation_dtype(x.dtype()), "vocabulary_loss: wants b in {}, got {}",
        accumulation_dtype(x.dtype()), b.dtype());
  check_index("vocabulary_loss", "targets", targets, {x.size(0)}, x.context());
}

// w [V, H] with rows of zeros behind it, so that a row of logits begins on 256 bytes: products whose rows do not take
// twice the time. Only where that pays.
Tensor padded_words(const Tensor& w) {
  constexpr int64_t kStep = 128;
  const int64_t words = w.size(0), room = (words + kStep - 1) / kStep * kStep;
  if (w.dtype() != DType::kBFloat16 || room == words || words < 8 * kStep) return w;
  Tensor padded = empty(w.context(), {room, w.size(1)}, w.dtype());
  padded.rows(0, words).copy_from(w);
  fill(padded.rows(words, room), 0);
  return padded;
}

// On CUDA a product adds the bias, and −∞ where no word is. A CPU's would begin its sums with it, in another order.
Tensor bias_of_product(const Tensor& b, int64_t room) {
  if (!b.context().device().is_cuda() || room == b.size(0)) return b;
  Tensor padded = empty(b.context(), {room}, b.dtype());
  padded.rows(0, b.size(0)).copy_from(b);
  fill(padded.rows(b.size(0), room), -std::numeric_limits<double>::infinity());
  return padded;
}

// What each part of the rows adds to the gradients, of the sum of all losses and not of their mean.
class PartGradients {
 public:
  PartGradients(const Tensor& x, const Tensor& w, bool of_x, bool of_w, bool of_b) : x_(x), w_(w) {
    const DType wide = accumulation_dtype(x.dtype());
    Context& context = x.context();
    if (of_x) dx_ = empty(context, x.shape(), wide);
    const auto sums = x.size(0) ? empty : zeros;  // no rows: add() is never called
    if (of_w) dw_ = sums(context, w.shape(), wide);
    if (of_b) db_ = sums(context, {w.size(0)}, wide);
  }
  // dlogits of rows [first, first + n).     [n, room]
  void add(const Tensor& dl, int64_t first) {
    const int64_t end = first + dl.size(0);
    if (dx_.defined()) matmul_into(dl, w_, dx_.rows(first, end), false, false);
    if (dw_.defined()) matmul_into(dl, x_.rows(first, end), dw_, true, false, {.add = first > 0});
    if (!db_.defined()) return;
    const Tensor sums = first ? empty_like(db_) : db_;
    column_sum(dl, sums);
    if (first) accumulate(db_, sums);
  }
  const Tensor& dx() const { return dx_; }
  // Without what was added behind the words.
  Tensor dw(int64_t words) const { return dw_.defined() ? dw_.rows(0, words) : dw_; }
  Tensor db(int64_t words) const { return db_.defined() ? db_.rows(0, words) : db_; }

 private:
  Tensor x_, w_, dx_, dw_, db_;
};

// Adds the i-th gradient: `sum`, which is that of the losses' sum, times dy and divided by the number of targets.
void add_scaled(Grads& in, size_t i, const Tensor& sum, const Tensor& dy, const Tensor& sums) {
  Tensor g = in.buffer(i);
  const auto run = [&]<class A, class T>(TypeTag<A>, TypeTag<T>) {
    const A *from = sum.data<A>(), *of = dy.data<A>(), *count = sums.data<A>();
    T* to = g.data<T>();
    on_device(
        g.context(), "vocabulary_loss/gradient", [&] { cpu::vocabulary_scale(from, of, count, g.numel(), to); },
        [&](auto& cuda) { cuda::vocabulary_scale(from, of, count, g.numel(), to, cuda.stream); });
  };
  dispatch_floating(g.dtype(), "vocabulary_loss", [&](auto tag) {
    using T = typename decltype(tag)::type;
    run(TypeTag<Accumulator<T>>{}, tag);
  });
  in.add(i, g);
}

}  // namespace

// L = Σ_m [lse_m − l_m,target] / N over the N rows with a target, l = w x + b.
// dl_mv = (exp(l_mv − lse_m) − [v = target_m]) dL / N;  dx = dl w,  dw = dlᵀ x,  db = Σ_m dl_m.
// dL / N is a factor of all of them, so the rest is computed in the forward pass, where the logits are.
VocabularyLoss vocabulary_loss(const Var& x, const Var& w, const Var& b, const Tensor& targets) {
  check_vocabulary(x, w, b, targets);
  Context& context = x.context();
  const int64_t rows = x.size(0), words = w.size(0);
  const DType wide = accumulation_dtype(x.dtype());
  const Tensor from = x.value(), weight = padded_words(w.value_as(x.dtype())),
               bias = bias_of_product(b.value(), weight.size(0));
  const auto vector = [&](int64_t n) { return empty(context, {n}, wide); };
  Tensor lse = vector(rows), target = vector(rows), best = empty(context, {rows}, DType::kInt32);
  VocabularyLoss out{{}, vector(rows), vector(3)};
  Tensor loss = empty(context, {}, wide);
  const bool learns = context.grad_enabled && (x.requires_grad() || w.requires_grad() || b.requires_grad());
  std::optional<PartGradients> gradients;
  if (learns) gradients.emplace(from, weight, x.requires_grad(), w.requires_grad(), b.requires_grad());

  dispatch_floating(from.dtype(), "vocabulary_loss", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Accumulator<T>;
    const int64_t room = weight.size(0), part = rows_of_part(context, rows, room);
    for (int64_t first = 0; first < rows; first += part) {
      const int64_t end = std::min(rows, first + part);
      const Tensor logits = empty(context, {end - first, room}, wide);
      matmul_into(from.rows(first, end), weight, logits, false, true,
                  {.bias = context.device().is_cuda() ? bias : Tensor()});
      const Tensor dl = learns ? empty(context, logits.shape(), from.dtype()) : Tensor();
      const VocabularyRows<A> r{lse.data<A>() + first, target.data<A>() + first, best.data<int32_t>() + first};
      const VocabularyShape s{end - first, words, room};
      const A *l = logits.data<A>(), *shift = bias.data<A>();
      const int32_t* wanted = targets.data<int32_t>() + first;
      T* to = data_or_null<T>(dl);
      on_device(
          context, "vocabulary_loss/rows", [&] { cpu::vocabulary_rows(s, l, shift, wanted, r, to); },
          [&](auto& cuda) { cuda::vocabulary_rows(s, l, wanted, r, to, cuda); });
      if (learns) gradients->add(dl, first);
    }
    const VocabularyRows<A> r{lse.data<A>(), target.data<A>(), best.data<int32_t>()};
    const int32_t* wanted = targets.data<int32_t>();
    A *losses = out.row_losses.data<A>(), *mean = loss.data<A>(), *sums = out.sums.data<A>();
    on_device(
        context, "vocabulary_loss", [&] { cpu::vocabulary_finish(r, wanted, rows, words, losses, mean, sums); },
        [&](auto& cuda) { cuda::vocabulary_finish(r, wanted, rows, words, losses, mean, sums, cuda.stream); });
  });
  if (!learns) {
    out.loss = loss;
    return out;
  }
  out.loss = record("vocabulary_loss", loss, {x, w, b},
                    [dx = gradients->dx(), dw = gradients->dw(words), db = gradients->db(words), sums = out.sums](
                        const Tensor& dy, Grads& in) {
                      if (dx.defined()) add_scaled(in, 0, dx, dy, sums);
                      if (dw.defined()) add_scaled(in, 1, dw, dy, sums);
                      if (db.defined()) add_scaled(in, 2, db, dy, sums);
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

// Σ_j exp(l_j + b_j − largest), in double: beside a float32 of 1 rare words' terms are too small to count, and with 30,000 of them
// losses come out too low by up to 1e-3.
template <class A> A exp_sum(const A* l, const A* b, A largest, int64_t words) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < words; ++j) sum += static_cast<double>(math::exp_negative(l[j] + b[j] - largest));
  return static_cast<A>(sum);
}

template <class A, class T>
void vocabulary_rows(const VocabularyShape& s, const A* logits, const A* b, const int32_t* targets,
                     const VocabularyRows<A>& r, T* dlogits) {
  parallel_for(s.rows, 1, [=](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      const A* l = logits + m * s.room;
      A largest = -std::numeric_limits<A>::infinity();
      int32_t best = 0;
      for (int64_t j = 0; j < s.words; ++j)
        if (const A x = l[j] + b[j]; x > largest) largest = x, best = static_cast<int32_t>(j);
      const A lse = largest + std::log(exp_sum(l, b, largest, s.words));
      const int32_t wanted = targets[m];
      r.lse[m] = lse, r.best[m] = best;
      r.target[m] = wanted >= 0 && wanted < s.words ? l[wanted] + b[wanted] : A{0};
      if (!dlogits) continue;
      T* to = dlogits + m * s.room;
      const int64_t used = wanted == -1 ? 0 : s.words;
      for (int64_t j = 0; j < used; ++j)
        to[j] = static_cast<T>(math::exp_negative(l[j] + b[j] - lse) - (j == wanted ? A{1} : A{0}));
      std::fill(to + used, to + s.room, static_cast<T>(A{0}));
    }
  });
}

template <class A>
void vocabulary_finish(const VocabularyRows<A>& r, const int32_t* targets, int64_t rows, int64_t words, A* losses,
                       A* loss, A* sums) {
  double total = 0, count = 0, right = 0;
  for (int64_t m = 0; m < rows; ++m) {
    const bool counts = targets[m] != -1, valid = targets[m] >= 0 && targets[m] < words;
    losses[m] = !counts ? A{0} : valid ? r.lse[m] - r.target[m] : std::numeric_limits<A>::quiet_NaN();
    total += static_cast<double>(losses[m]);
    count += counts;
    right += counts && r.best[m] == targets[m];
  }
  *loss = static_cast<A>(count > 0 ? total / count : 0);
  sums[0] = static_cast<A>(total), sums[1] = static_cast<A>(count), sums[2] = static_cast<A>(right);
}

template <class A, class T> void vocabulary_scale(const A* x, const A* dloss, const A* sums, int64_t n, T* y) {
  const A scale = *dloss / std::max(sums[1], A{1});
  parallel_for(n, 4096, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = static_cast<T>(x[i] * scale);
  });
}

#define INSTANTIATE(A, T)                                                                   \
  template void vocabulary_rows(const VocabularyShape&, const A*, const A*, const int32_t*, \
                                const VocabularyRows<A>&, T*);                              \
  template void vocabulary_scale(const A*, const A*, const A*, int64_t, T*);
INSTANTIATE(float, float)
INSTANTIATE(float, bfloat16)
INSTANTIATE(double, double)
#undef INSTANTIATE
template void vocabulary_finish(const VocabularyRows<float>&, const int32_t*, int64_t, int64_t, float*, float*,
                                float*);
template void vocabulary_finish(const VocabularyRows<double>&, const int32_t*, int64_t, int64_t, double*, double*,
                                double*);

}  // namespace cpu
}  // namespace glia
