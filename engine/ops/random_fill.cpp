#include "engine/ops/random_fill.h"

#include "engine/core/parallel.h"
#include "engine/core/rng.h"

namespace glia {

void fill_normal(const Tensor& x, const NormalFill& f) {
  dispatch_floating(x.dtype(), "fill_normal", [&](auto tag) {
    using T = typename decltype(tag)::type;
    on_device(
        x.context(), "fill_normal", [&] { cpu::fill_normal(x.data<T>(), x.numel(), f); },
        [&](auto& cuda) { cuda::fill_normal(x.data<T>(), x.numel(), f, cuda.stream); });
  });
}

namespace cpu {

template <class T>
void fill_normal(T* x, int64_t n, const NormalFill& f) {
  parallel_for(n, 1 << 12, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const double z = random_normal(f.seed, f.purpose, f.step, static_cast<uint64_t>(i));
      x[i] = static_cast<T>(std::fma(f.std, z, f.add ? static_cast<double>(x[i]) : 0.0));
    }
  });
}

template void fill_normal(float*, int64_t, const NormalFill&);
template void fill_normal(double*, int64_t, const NormalFill&);
template void fill_normal(bfloat16*, int64_t, const NormalFill&);

}  // namespace cpu

}  // namespace glia
