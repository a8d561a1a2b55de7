#include "engine/ops/elementwise/dropout.h"

#include "engine/core/clones.h"
#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/elementwise/dropout_kernels.h"
#include "engine/ops/elementwise/dropout_words.h"

namespace glia {
namespace {

Tensor masked(const Tensor& x, double p, const RandomKey& key) {
  Tensor y = empty_like(x);
  dispatch_floating(x.dtype(), "dropout", [&](auto tag) {
    using T = typename decltype(tag)::type;
    on_device(
        x.context(), "dropout", [&] { cpu::dropout(x.data<T>(), y.data<T>(), x.numel(), p, key); },
        [&](auto& cuda) { cuda::dropout(x.data<T>(), y.data<T>(), x.numel(), p, key, cuda.stream); });
  });
  return y;
}

}  // namespace

// y = x ∘ m, m = keep / (1 − p);  dx = dy ∘ m with the same m, drawn again.
Var dropout(const Var& x, double p, const RandomKey& key) {
  CHECK(p >= 0 && p < 1, "dropout: wants 0 <= p < 1, got {}", p);
  if (p == 0) return x;
  const RandomKey rows = row_key("dropout", key, x.rank() ? x.size(-1) : 1);
  return record("dropout", masked(x.value(), p, rows), {x},
                [p, key = rows](const Tensor& dy, Grads& in) { in.add(0, masked(dy, p, key)); });
}

namespace cpu {

template <class T>
GLIA_CLONES void dropout_loop(const T* x, T* y, const uint32_t* words, uint32_t threshold, Accumulator<T> scale,
                              int64_t n) {
  using A = Accumulator<T>;
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) y[i] = static_cast<T>(keep(words[i], threshold, static_cast<A>(x[i]) * scale));
}

template <class T> void dropout(const T* x, T* y, int64_t n, double p, const RandomKey& key) {
  const uint32_t threshold = bernoulli_threshold(p);
  const auto scale = static_cast<Accumulator<T>>(1 / (1 - p));
  constexpr int64_t kPiece = 512;  // elements whose words are drawn together: they stay in the first cache
  parallel_for(n, 32 * kPiece, [=](int64_t begin, int64_t end) {
    uint32_t buffer[kPiece + kWordSlack];
    for (int64_t first = begin; first < end; first += kPiece) {
      const int64_t count = std::min(kPiece, end - first);
      prefetch(x + first, count), prefetch(y + first, count);
      dropout_loop(x + first, y + first, draw_words(key, first, count, buffer), threshold, scale, count);
    }
  });
}

template void dropout(const float*, float*, int64_t, double, const RandomKey&);
template void dropout(const double*, double*, int64_t, double, const RandomKey&);
template void dropout(const bfloat16*, bfloat16*, int64_t, double, const RandomKey&);

}  // namespace cpu
}  // namespace glia
