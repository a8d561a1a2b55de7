#include "engine/ops/dropout.h"

#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/dropout_kernels.h"

namespace glia {
namespace {

Tensor masked(const Tensor& x, double p, const RandomKey& key) {
  Tensor y = empty_like(x);
  dispatch_floating(x.dtype(), "dropout", [&](auto tag) {
    using T = typename decltype(tag)::type;
    on_device(x.context(), "dropout", [&] { cpu::dropout(x.data<T>(), y.data<T>(), x.numel(), p, key); },
              [&](auto& cuda) { cuda::dropout(x.data<T>(), y.data<T>(), x.numel(), p, key, cuda.stream); });
  });
  return y;
}

}  // namespace

// y = x ∘ m, m = keep / (1 − p);  dx = dy ∘ m with the same m, drawn again.
Var dropout(const Var& x, double p, const RandomKey& key) {
  CHECK(p >= 0 && p < 1, "dropout: wants 0 <= p < 1, got {}", p);
  if (p == 0) return x;
  return record("dropout", masked(x.value(), p, key), {x},
                [p, key](const Tensor& dy, Grads& in) { in.add(0, masked(dy, p, key)); });
}

namespace cpu {

template <class T>
void dropout(const T* x, T* y, int64_t n, double p, const RandomKey& key) {
  using A = Accumulator<T>;
  const uint32_t threshold = bernoulli_threshold(p);
  const A scale = static_cast<A>(1 / (1 - p));
  parallel_for(n, 1 << 14, [=](int64_t begin, int64_t end) {
    for_each_drawn(key, begin, end, [=](int64_t first, int64_t count, const uint32_t* words) {
      const T* from = x + first;
      T* to = y + first;
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(words[i] < threshold ? A{0} : static_cast<A>(from[i]) * scale);
    });
  });
}

template void dropout(const float*, float*, int64_t, double, const RandomKey&);
template void dropout(const double*, double*, int64_t, double, const RandomKey&);
template void dropout(const bfloat16*, bfloat16*, int64_t, double, const RandomKey&);

}  // namespace cpu
}  // namespace glia
