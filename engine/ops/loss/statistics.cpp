#include "engine/ops/loss/statistics.h"

#include "engine/ops/loss/statistics_kernels.h"

namespace glia {

void accumulate_utilisation(const Tensor& gates, const Tensor& experts, const Tensor& labels, const Sequences& q,
                            const Tensor& sums) {
  CHECK(gates.rank() == 2 && gates.shape() == experts.shape() && gates.size(0) == q.tokens &&
            experts.dtype() == DType::kInt32,
        "utilisation: wants gates and int32 experts [{}, K], got {} and {} {}", q.tokens, gates.shape(),
        experts.dtype(), experts.shape());
  CHECK(labels.dtype() == DType::kInt32 && labels.shape() == Shape{q.count},
        "utilisation: wants labels int32 [{}], got {} {}", q.count, labels.dtype(), labels.shape());
  CHECK(sums.rank() == 3 && sums.size(0) == 2 && sums.size(2) >= 2, "utilisation: wants sums [2, C, E + 1], got {}",
        sums.shape());
  const UtilisationShape s{q.tokens, gates.size(1), sums.size(2) - 1, sums.size(1)};
  const int32_t *e = experts.data<int32_t>(), *l = labels.data<int32_t>(), *of = q.sequence_of.data<int32_t>(),
                *o = q.offsets.data<int32_t>(), *k = data_or_null<int32_t>(q.key_lengths);
  double* to = sums.data<double>();
  dispatch_floating(gates.dtype(), "utilisation", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* g = gates.data<T>();
    on_device(
        gates.context(), "utilisation", [&] { cpu::utilisation(s, g, e, l, of, o, k, to); },
        [&](auto& cuda) { cuda::utilisation(s, g, e, l, of, o, k, to, cuda.stream); });
  });
}

void accumulate_confusion(const Tensor& logits, const Tensor& labels, const Tensor& counts) {
  CHECK(logits.rank() == 2 && labels.dtype() == DType::kInt32 && labels.shape() == Shape{logits.size(0)} &&
            counts.shape() == (Shape{logits.size(1), logits.size(1)}),
        "confusion: wants logits [B, C], labels int32 [B] and counts [C, C], got {}, {} {} and {}", logits.shape(),
        labels.dtype(), labels.shape(), counts.shape());
  dispatch_floating(logits.dtype(), "confusion", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto args = [&](auto f) {
      f(logits.data<T>(), labels.data<int32_t>(), logits.size(0), logits.size(1), counts.data<double>());
    };
    on_device(
        logits.context(), "confusion", [&] { args([](auto... a) { cpu::confusion(a...); }); },
        [&](auto& cuda) { args([&](auto... a) { cuda::confusion(a..., cuda.stream); }); });
  });
}

Tensor gather_index_rows(const Tensor& table, const Tensor& index) {
  CHECK(table.rank() == 2 && table.dtype() == DType::kInt32 && index.rank() == 1 && index.dtype() == DType::kInt32,
        "gather_index_rows: wants int32 [N, K] and [M], got {} {} and {} {}", table.dtype(), table.shape(),
        index.dtype(), index.shape());
  Tensor y = empty(table.context(), {index.size(0), table.size(1)}, DType::kInt32);
  const int32_t *t = table.data<int32_t>(), *i = index.data<int32_t>();
  on_device(
      table.context(), "gather_index_rows",
      [&] { cpu::gather_index_rows(t, i, y.data<int32_t>(), y.size(0), y.size(1)); },
      [&](auto& cuda) { cuda::gather_index_rows(t, i, y.data<int32_t>(), y.size(0), y.size(1), cuda.stream); });
  return y;
}

namespace cpu {

template <class T>
void utilisation(const UtilisationShape& s, const T* gates, const int32_t* experts, const int32_t* labels,
                 const int32_t* sequence_of, const int32_t* offsets, const int32_t* key_lengths, double* sums) {
  const int64_t width = s.n_experts + 1;
  for (int64_t t = 0; t < s.tokens; ++t) {
    const int32_t b = sequence_of[t];
    if (b < 0 || labels[b] < 0 || labels[b] >= s.classes) continue;
    const int64_t place = t - offsets[b];
    if (key_lengths && place >= key_lengths[b]) continue;
    for (int view = 0; view < (place == 0 ? 2 : 1); ++view) {
      double* row = sums + (view * s.classes + labels[b]) * width;
      row[s.n_experts] += 1;
      for (int64_t k = 0; k < s.top_k; ++k)
        if (const int32_t e = experts[t * s.top_k + k]; e >= 0) row[e] += quantised_gate(gates[t * s.top_k + k]);
    }
  }
}

template <class T>
void confusion(const T* logits, const int32_t* labels, int64_t rows, int64_t classes, double* counts) {
  for (int64_t b = 0; b < rows; ++b) {
    if (labels[b] < 0 || labels[b] >= classes) continue;
    int64_t best = 0;
    for (int64_t c = 1; c < classes; ++c)
      if (static_cast<double>(logits[b * classes + c]) > static_cast<double>(logits[b * classes + best])) best = c;
    counts[labels[b] * classes + best] += 1;
  }
}

void gather_index_rows(const int32_t* table, const int32_t* index, int32_t* y, int64_t rows, int64_t width) {
  for (int64_t m = 0; m < rows; ++m)
    for (int64_t k = 0; k < width; ++k) y[m * width + k] = index[m] < 0 ? -1 : table[index[m] * width + k];
}

#define INSTANTIATE(T)                                                                                         \
  template void utilisation(const UtilisationShape&, const T*, const int32_t*, const int32_t*, const int32_t*, \
                            const int32_t*, const int32_t*, double*);                                          \
  template void confusion(const T*, const int32_t*, int64_t, int64_t, double*);
GLIA_FOR_FLOATING(INSTANTIATE)
#undef INSTANTIATE

}  // namespace cpu

}  // namespace glia
