#include "engine/ops/routing/noisy_load.h"

#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/routing/noisy_load_kernels.h"
#include "engine/ops/wide_types.h"

namespace glia {

Var noisy_load(const Var& clean, const Var& std, const Var& noisy, int64_t k) {
  check_same("noisy_load", clean, std);
  check_same("noisy_load", clean, noisy);
  CHECK(clean.rank() == 2 && k >= 1 && k < clean.size(1),
        "noisy_load: wants logits [T, E] and 1 <= k < E, got {} and k = {}", clean.shape(), k);
  const NoisyLoadShape shape{clean.size(0), clean.size(1), k};
  const Tensor c = clean.value(), s = std.value(), n = noisy.value(), p = empty_like(c);
  dispatch_wide(c.dtype(), "noisy_load", [&]<class A>(TypeTag<A>) {
    on_device(
        c.context(), "noisy_load",
        [&] { cpu::noisy_load(shape, c.data<A>(), s.data<A>(), n.data<A>(), p.data<A>()); },
        [&](auto& cuda) {
          cuda::noisy_load(shape, c.data<A>(), s.data<A>(), n.data<A>(), p.data<A>(), cuda.stream);
        });
  });
  return record("noisy_load", p, {clean, std, noisy}, [=](const Tensor& dp, Grads& in) {
    Tensor to[3];
    for (Tensor& t : to) t = empty_like(c);
    dispatch_wide(c.dtype(), "noisy_load", [&]<class A>(TypeTag<A>) {
      const A *cl = c.data<A>(), *sd = s.data<A>(), *no = n.data<A>(), *d = dp.data<A>();
      A *dc = to[0].data<A>(), *ds = to[1].data<A>(), *dn = to[2].data<A>();
      on_device(
          c.context(), "noisy_load/gradient", [&] { cpu::noisy_load_gradient(shape, cl, sd, no, d, dc, ds, dn); },
          [&](auto& cuda) { cuda::noisy_load_gradient(shape, cl, sd, no, d, dc, ds, dn, cuda.stream); });
    });
    for (size_t i = 0; i < 3; ++i) in.add(i, to[i]);
  });
}

namespace cpu {

template <class A> void noisy_load(const NoisyLoadShape& s, const A* clean, const A* std, const A* noisy, A* p) {
  parallel_for(s.tokens, 512, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin * s.experts; i < end * s.experts; i += s.experts)
      noisy_load_row(clean + i, std + i, noisy + i, s.experts, s.k, p + i);
  });
}

template <class A>
void noisy_load_gradient(const NoisyLoadShape& s, const A* clean, const A* std, const A* noisy, const A* dp,
                         A* dclean, A* dstd, A* dnoisy) {
  parallel_for(s.tokens, 512, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin * s.experts; i < end * s.experts; i += s.experts)
      noisy_load_gradient_row(clean + i, std + i, noisy + i, dp + i, s.experts, s.k, dclean + i, dstd + i,
                              dnoisy + i);
  });
}

}  // namespace cpu
}  // namespace glia
