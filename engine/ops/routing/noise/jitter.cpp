#include "engine/ops/routing/noise/jitter.h"

#include <algorithm>

#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/routing/noise/jitter_kernels.h"

namespace glia {
namespace {

template <class From, class To> void multiply(const JitterRule& rule, const Tensor& x, const Tensor& y) {
  on_device(
      x.context(), "jitter", [&] { cpu::jitter(rule, x.data<From>(), y.data<To>()); },
      [&](auto& cuda) { cuda::jitter(rule, x.data<From>(), y.data<To>(), cuda.stream); });
}

}  // namespace

Var jitter(const Var& x, double width, const RandomKey& key) {
  CHECK(x.value().rank() == 2 && width >= 0 && width < 1,
        "jitter: wants x [T, H] and 0 <= width < 1, got {} and {}", x.shape(), width);
  const DType dtype = x.dtype();
  const JitterRule rule{x.size(0), x.size(1), width, row_key("jitter", key, (x.size(1) + 3) / 4 * 4)};
  const Tensor y = empty(x.context(), x.shape(), accumulation_dtype(dtype));
  dispatch_floating(dtype, "jitter", [&]<class T>(TypeTag<T>) { multiply<T, Accumulator<T>>(rule, x.value(), y); });
  return record("jitter", y, {x}, [rule, dtype](const Tensor& dy, Grads& in) {
    const Tensor dx = empty(dy.context(), dy.shape(), dtype);
    dispatch_floating(dtype, "jitter", [&]<class T>(TypeTag<T>) { multiply<Accumulator<T>, T>(rule, dy, dx); });
    in.add(0, dx);
  });
}

namespace cpu {

template <class From, class To> void jitter(const JitterRule& r, const From* x, To* y) {
  using A = Accumulator<From>;
  parallel_for(r.rows, 64, [=](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t n = 0; n < r.columns; n += 4) {
        const PhiloxBlock block = jitter_block(r, t, n);
        const int64_t at = t * r.columns + n;
        for (int64_t k = 0; k < std::min<int64_t>(4, r.columns - n); ++k)
          y[at + k] = static_cast<To>(static_cast<A>(x[at + k]) * jitter_factor<A>(r, block.word[k]));
      }
  });
}

}  // namespace cpu
}  // namespace glia
