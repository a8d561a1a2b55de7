#include "engine/ops/elementwise/random_fill.h"

#include "engine/core/parallel.h"

namespace glia {

void fill_normal(const Tensor& x, const NormalFill& f) {
  dispatch_floating(x.dtype(), "fill_normal", [&](auto tag) {
    using T = typename decltype(tag)::type;
    on_device(
        x.context(), "fill_normal", [&] { cpu::fill_normal(x.data<T>(), x.numel(), f); },
        [&](auto& cuda) { cuda::fill_normal(x.data<T>(), x.numel(), f, cuda.stream); });
  });
}

void fill_uniform(const Tensor& x, const UniformFill& f) {
  dispatch_floating(x.dtype(), "fill_uniform", [&](auto tag) {
    using T = typename decltype(tag)::type;
    on_device(
        x.context(), "fill_uniform", [&] { cpu::fill_uniform(x.data<T>(), x.numel(), f); },
        [&](auto& cuda) { cuda::fill_uniform(x.data<T>(), x.numel(), f, cuda.stream); });
  });
}

void fill_bernoulli(const Tensor& x, double p, const UniformFill& f) {
  CHECK(p >= 0 && p <= 1, "fill_bernoulli: wants 0 <= p <= 1, got {}", p);
  dispatch_floating(x.dtype(), "fill_bernoulli", [&](auto tag) {
    using T = typename decltype(tag)::type;
    on_device(
        x.context(), "fill_bernoulli", [&] { cpu::fill_bernoulli(x.data<T>(), x.numel(), p, f); },
        [&](auto& cuda) { cuda::fill_bernoulli(x.data<T>(), x.numel(), p, f, cuda.stream); });
  });
}

void fill_bits(const Tensor& x, const UniformFill& f) {
  on_device(
      x.context(), "fill_bits", [&] { cpu::fill_bits(x.data<int32_t>(), x.numel(), f); },
      [&](auto& cuda) { cuda::fill_bits(x.data<int32_t>(), x.numel(), f, cuda.stream); });
}

namespace cpu {

template <class T> void fill_normal(T* x, int64_t n, const NormalFill& f) {
  parallel_for(n, 1 << 12, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const double z = random_normal(f.seed, f.purpose, f.step, static_cast<uint64_t>(i));
      x[i] = static_cast<T>(std::fma(f.std, z, f.add ? static_cast<double>(x[i]) : 0.0));
    }
  });
}

template <class T> void fill_uniform(T* x, int64_t n, const UniformFill& f) {
  parallel_for(n, 1 << 12, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) x[i] = static_cast<T>(uniform_element(f, i));
  });
}

template <class T> void fill_bernoulli(T* x, int64_t n, double p, const UniformFill& f) {
  const uint32_t threshold = bernoulli_threshold(p);
  parallel_for(n, 1 << 12, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      x[i] = static_cast<T>(random_bits(f.seed, f.purpose, f.step, static_cast<uint64_t>(i)) < threshold ? 1.0f
                                                                                                         : 0.0f);
  });
}

void fill_bits(int32_t* x, int64_t n, const UniformFill& f) {
  parallel_for(n, 1 << 12, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      x[i] = static_cast<int32_t>(random_bits(f.seed, f.purpose, f.step, static_cast<uint64_t>(i)));
  });
}

#define INSTANTIATE(T)                                         \
  template void fill_uniform(T*, int64_t, const UniformFill&); \
  template void fill_bernoulli(T*, int64_t, double, const UniformFill&);
GLIA_FOR_FLOATING(INSTANTIATE)
#undef INSTANTIATE
template void fill_normal(float*, int64_t, const NormalFill&);
template void fill_normal(double*, int64_t, const NormalFill&);
template void fill_normal(bfloat16*, int64_t, const NormalFill&);

}  // namespace cpu

}  // namespace glia
