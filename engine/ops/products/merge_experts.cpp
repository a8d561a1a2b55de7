#include "engine/ops/products/merge_experts.h"

#include <algorithm>

#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/products/merge_experts_kernels.h"

namespace glia {

// dp[b, e] = Σ_j dw_b[j] w[e, j];  dw[e] = Σ_b p[b, e] dw_b. Not matmul(): its products are of one type, so a bfloat16 result
// and its gradient would be written in float32 and read again, which costs more than the sums.
Var merge_experts(const Var& p, const Var& w, DType type) {
  CHECK(p.rank() == 2 && w.rank() >= 1 && p.size(1) == w.size(0) && p.size(1) >= 1,
        "merge_experts: wants p [B, E] and w [E, ..], got {} and {}", p.shape(), w.shape());
  CHECK(is_floating(type) && w.dtype() == accumulation_dtype(type) && p.dtype() == w.dtype(),
        "merge_experts: wants p and w in the accumulation type of {}, got {} and {}", type, p.dtype(), w.dtype());
  check_one_context("merge_experts", p, {&w});
  const MergeShape s{p.size(0), p.size(1), w.shape().without(0).numel()};
  const Tensor shares = p.value(), weights = w.value();
  const Tensor merged = empty(w.context(), w.shape().with(0, s.sequences), type);
  dispatch_floating(type, "merge_experts", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Accumulator<T>*by = shares.data<Accumulator<T>>(), *from = weights.data<Accumulator<T>>();
    on_device(
        w.context(), "merge_experts", [&] { cpu::merge_experts(s, by, from, merged.data<T>()); },
        [&](auto& cuda) { cuda::merge_experts(s, by, from, merged.data<T>(), cuda.stream); });
  });
  return record("merge_experts", merged, {p, w}, [s, shares, weights](const Tensor& d, Grads& in) {
    dispatch_floating(d.dtype(), "merge_experts", [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = Accumulator<T>;
      const A *by = shares.data<A>(), *from = weights.data<A>();
      if (in.wants(0)) {
        const Tensor dp = in.buffer(0, shares.dtype());
        on_device(
            d.context(), "merge_experts/dp", [&] { cpu::merge_share_gradient(s, d.data<T>(), from, dp.data<A>()); },
            [&](auto& cuda) {
              const Tensor partial = empty(
                  d.context(), {cuda::merge_chunks(s, d.data<T>(), from), s.sequences, s.experts}, dp.dtype());
              cuda::merge_share_gradient(s, d.data<T>(), from, partial.data<A>(), dp.data<A>(), cuda.stream);
            });
        in.add_cast(0, dp);
      }
      if (in.wants(1)) {
        const Tensor dw = in.buffer(1, weights.dtype());
        on_device(
            d.context(), "merge_experts/dw", [&] { cpu::merge_weight_gradient(s, by, d.data<T>(), dw.data<A>()); },
            [&](auto& cuda) { cuda::merge_weight_gradient(s, by, d.data<T>(), dw.data<A>(), cuda.stream); });
        in.add_cast(1, dw);
      }
    });
  });
}

namespace cpu {
namespace {

constexpr int64_t kColumns = 512;  // whose sums lie in the first cache

// to[r, j] = Σ_k by(r, k) from[k, j], k ascending.     from [K, N] → to [R, N]
template <class A, class From, class To, class F>
void weigh_rows(int64_t rows, int64_t terms, int64_t columns, F by, const From* from, To* to) {
  const int64_t chunks = (columns + kColumns - 1) / kColumns;
  parallel_for(rows * chunks, 4, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t r = i % rows, first = i / rows * kColumns, count = std::min(kColumns, columns - first);
      A sum[kColumns] = {};
      for (int64_t k = 0; k < terms; ++k) {
        const A weight = by(r, k);
        const From* row = from + k * columns + first;
        for (int64_t j = 0; j < count; ++j) sum[j] += weight * static_cast<A>(row[j]);
      }
      for (int64_t j = 0; j < count; ++j) to[r * columns + first + j] = static_cast<To>(sum[j]);
    }
  });
}

// By lanes, which the compiler makes vectors of, and by chunks, whose errors do not grow with n.
template <class T> Accumulator<T> product_of(const T* x, const Accumulator<T>* y, int64_t n) {
  using A = Accumulator<T>;
  constexpr int64_t kLanes = 16;
  A total = 0;
  for (int64_t first = 0; first < n; first += kColumns) {
    A lanes[kLanes] = {};
    const int64_t end = std::min(n, first + kColumns), whole = first + (end - first) / kLanes * kLanes;
    for (int64_t j = first; j < whole; j += kLanes)
      for (int64_t k = 0; k < kLanes; ++k) lanes[k] += static_cast<A>(x[j + k]) * y[j + k];
    for (int64_t j = whole; j < end; ++j) lanes[j - whole] += static_cast<A>(x[j]) * y[j];
    for (int64_t k = 1; k < kLanes; ++k) lanes[0] += lanes[k];
    total += lanes[0];
  }
  return total;
}

}  // namespace

template <class T>
void merge_experts(const MergeShape& s, const Accumulator<T>* p, const Accumulator<T>* w, T* merged) {
  const auto share = [p, experts = s.experts](int64_t b, int64_t e) { return p[b * experts + e]; };
  weigh_rows<Accumulator<T>>(s.sequences, s.experts, s.columns, share, w, merged);
}

template <class T>
void merge_weight_gradient(const MergeShape& s, const Accumulator<T>* p, const T* d, Accumulator<T>* dw) {
  const auto share = [p, experts = s.experts](int64_t e, int64_t b) { return p[b * experts + e]; };
  weigh_rows<Accumulator<T>>(s.experts, s.sequences, s.columns, share, d, dw);
}

template <class T>
void merge_share_gradient(const MergeShape& s, const T* d, const Accumulator<T>* w, Accumulator<T>* dp) {
  parallel_for(s.sequences * s.experts, 4, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      dp[i] = product_of(d + i / s.experts * s.columns, w + i % s.experts * s.columns, s.columns);
  });
}

#define INSTANTIATE(T)                                                                                      \
  template void merge_experts(const MergeShape&, const Accumulator<T>*, const Accumulator<T>*, T*);         \
  template void merge_weight_gradient(const MergeShape&, const Accumulator<T>*, const T*, Accumulator<T>*); \
  template void merge_share_gradient(const MergeShape&, const T*, const Accumulator<T>*, Accumulator<T>*);
GLIA_FOR_FLOATING(INSTANTIATE)
#undef INSTANTIATE

}  // namespace cpu
}  // namespace glia
