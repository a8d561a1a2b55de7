#include "engine/ops/adamw.h"

#include <algorithm>
#include <type_traits>

#include "engine/core/parallel.h"

namespace glia {

void adamw_step(const AdamWBuffers& b, const AdamWOptions& o) {
  const int64_t n = b.p.numel(), split = b.low.defined() ? b.low.numel() : 0, rest = n - split;
  CHECK(n % 64 == 0 && b.decayed % 64 == 0 && b.decayed <= n && split % 64 == 0 && split <= n,
        "adamw: wants multiples of 64, got {}, {} that decay and {} of bfloat16 gradients", n, b.decayed, split);
  CHECK(!b.low.defined() || b.low.dtype() == DType::kBFloat16, "adamw: wants bfloat16 as the lower gradients, got {}",
        b.low.dtype());
  for (const Tensor* t : {&b.m, &b.v, &b.g})
    CHECK(t->numel() == (t == &b.g ? rest : n) && t->dtype() == b.p.dtype(),
          "adamw: wants buffers {} [{}] and gradients [{}], got {} {}", b.p.dtype(), n, rest, t->dtype(), t->shape());
  CHECK(!b.copy.defined() || b.copy.numel() == n, "adamw: wants a copy [{}], got {}", n, b.copy.shape());
  const int64_t low_chunks = norm_chunks(split), chunks = low_chunks + norm_chunks(rest);
  CHECK(b.partial.numel() == chunks && b.factors.numel() == adamw_factor::kCount,
        "adamw: wrong scratch sizes {} and {}", b.partial.shape(), b.factors.shape());
  Context& context = b.p.context();
  double *partial = b.partial.data<double>(), *factors = b.factors.data<double>();
  bfloat16* copy = b.copy.defined() ? b.copy.data<bfloat16>() : nullptr;
  bfloat16* rest_copy = copy ? copy + split : nullptr;
  const bfloat16* low = split ? b.low.data<bfloat16>() : nullptr;
  // Of each segment, how much decays.
  const int64_t low_decayed = std::min(b.decayed, split), rest_decayed = b.decayed - low_decayed;
  const auto run = [&]<class T>(TypeTag<T>) {
    T *p = b.p.data<T>(), *m = b.m.data<T>(), *v = b.v.data<T>();
    const T* g = b.g.data<T>();
    on_device(
        context, "adamw",
        [&] {
          cpu::squared_sums(low, split, partial);
          cpu::squared_sums(g, rest, partial + low_chunks);
          cpu::adamw_factors(o, context.step_pointer(), partial, chunks, factors);
          cpu::adamw_update(o, factors, p, m, v, low, copy, low_decayed, split);
          cpu::adamw_update(o, factors, p + split, m + split, v + split, g, rest_copy, rest_decayed, rest);
        },
        [&](auto& cuda) {
          const Stream stream = cuda.stream;
          cuda::squared_sums(low, split, partial, stream);
          cuda::squared_sums(g, rest, partial + low_chunks, stream);
          cuda::adamw_factors(o, context.step_pointer(), partial, chunks, factors, stream);
          cuda::adamw_update(o, factors, p, m, v, low, copy, low_decayed, split, stream);
          cuda::adamw_update(o, factors, p + split, m + split, v + split, g, rest_copy, rest_decayed, rest, stream);
        });
  };
  if (b.p.dtype() == DType::kFloat64) run(TypeTag<double>{});
  else run(TypeTag<float>{});
}

namespace cpu {

template <class T>
void squared_sums(const T* g, int64_t n, double* partial) {
  parallel_for(n, kNormChunk, [=](int64_t begin, int64_t end) {
    constexpr int kLanes = 8;  // independent sums, so that the compiler may vectorise without reordering
    double sum[kLanes] = {};
    for (int64_t i = begin; i < end; i += kLanes)  // n is a multiple of 64
      for (int k = 0; k < kLanes; ++k) sum[k] += static_cast<double>(g[i + k]) * static_cast<double>(g[i + k]);
    double total = 0;
    for (const double s : sum) total += s;
    partial[begin / kNormChunk] = total;
  });
}

void adamw_factors(const AdamWOptions& o, const uint32_t* step, const double* partial, int64_t chunks,
                   double* factors) {
  double sum = 0;
  for (int64_t c = 0; c < chunks; ++c) sum += partial[c];
  glia::adamw_factors(o, *step, sum, factors);
}

template <class T, class G>
void adamw_update(const AdamWOptions& o, const double* factors, T* p, T* m, T* v, const G* g, bfloat16* copy,
                  int64_t decayed, int64_t n) {
  if (factors[adamw_factor::kApply] == 0) return;
  const AdamWUpdate<T> update(o, factors);
  parallel_for(n, kNormChunk, [=](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; block += 64) {
      const bool decay = block < decayed;
#pragma omp simd
      for (int64_t i = block; i < block + 64; ++i) update.apply(p[i], m[i], v[i], static_cast<T>(g[i]), decay);
      if (copy)
        for (int64_t i = block; i < block + 64; ++i) copy[i] = static_cast<bfloat16>(p[i]);
    }
  });
}

template void squared_sums(const bfloat16*, int64_t, double*);
#define INSTANTIATE(T, G)                                                                                         \
  template void adamw_update(const AdamWOptions&, const double*, T*, T*, T*, const G*, bfloat16*, int64_t, int64_t);
#define INSTANTIATE_BOTH(T)                               \
  template void squared_sums(const T*, int64_t, double*); \
  INSTANTIATE(T, T)                                       \
  INSTANTIATE(T, bfloat16)
INSTANTIATE_BOTH(float)
INSTANTIATE_BOTH(double)
#undef INSTANTIATE_BOTH
#undef INSTANTIATE

}  // namespace cpu

}  // namespace glia
