#include "engine/ops/routing/select_codes.h"

#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/routing/select_codes_kernels.h"
#include "engine/ops/wide_types.h"

namespace glia {

int64_t code_bits(int64_t n_experts) {
  int64_t bits = 1;
  while (int64_t{1} << bits < n_experts) ++bits;
  return bits;
}

Var select_codes(const Var& z, int64_t selectors, int64_t n_experts, double gamma) {
  const int64_t bits = code_bits(n_experts);
  CHECK(z.rank() == 2 && z.size(1) == selectors * bits && gamma > 0,
        "select_codes: wants z [T, {} selectors · {} bits] and γ > 0, got {} and {}", selectors, bits, z.shape(),
        gamma);
  const CodeShape shape{z.size(0) * selectors, bits, n_experts, gamma};
  const Tensor from = z.value(), p = empty(z.context(), {shape.rows, n_experts}, z.dtype());
  dispatch_wide(z.dtype(), "select_codes", [&]<class A>(TypeTag<A>) {
    on_device(
        z.context(), "select_codes", [&] { cpu::select_codes(shape, from.data<A>(), p.data<A>()); },
        [&](auto& cuda) { cuda::select_codes(shape, from.data<A>(), p.data<A>(), cuda.stream); });
  });
  return record("select_codes", p, {z}, [=](const Tensor& dp, Grads& in) {
    const Tensor dz = in.buffer(0);
    dispatch_wide(dp.dtype(), "select_codes", [&]<class A>(TypeTag<A>) {
      const A *x = from.data<A>(), *d = dp.data<A>();
      on_device(
          dp.context(), "select_codes/gradient", [&] { cpu::select_codes_gradient(shape, x, d, dz.data<A>()); },
          [&](auto& cuda) { cuda::select_codes_gradient(shape, x, d, dz.data<A>(), cuda.stream); });
    });
    in.add(0, dz);
  });
}

namespace cpu {

template <class A> void select_codes(const CodeShape& s, const A* z, A* p) {
  parallel_for(s.rows, 256, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin * s.experts; i < end * s.experts; ++i)
      p[i] = code_product(s, z + i / s.experts * s.bits, i % s.experts, -1);
  });
}

template <class A> void select_codes_gradient(const CodeShape& s, const A* z, const A* dp, A* dz) {
  parallel_for(s.rows, 256, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin * s.bits; i < end * s.bits; ++i)
      dz[i] = code_gradient(s, z + i / s.bits * s.bits, dp + i / s.bits * s.experts, i % s.bits);
  });
}

}  // namespace cpu
}  // namespace glia
