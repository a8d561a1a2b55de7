#include "engine/ops/routing/sparsity_weight.h"

#include "engine/ops/checks.h"
#include "engine/ops/routing/sparsity_weight_kernels.h"

namespace glia {

void update_sparsity_weight(const Tensor& weight, const Tensor& progress, const Tensor& counts,
                            const Tensor& tokens, double wanted_share, double factor, bool first) {
  const DType t = weight.dtype();
  CHECK(weight.shape() == Shape{1} && progress.shape() == Shape{3} && counts.rank() == 1 &&
            tokens.shape() == Shape{1},
        "update_sparsity_weight: wants weight [1], progress [3], counts [E], tokens [1], got {}, {}, {}, {}",
        weight.shape(), progress.shape(), counts.shape(), tokens.shape());
  CHECK((t == DType::kFloat32 || t == DType::kFloat64) && progress.dtype() == t && counts.dtype() == t &&
            tokens.dtype() == t,
        "update_sparsity_weight: wants one dtype, float32 or float64, got {}, {}, {}, {}", t, progress.dtype(),
        counts.dtype(), tokens.dtype());
  const SparsityRule rule{counts.numel(), wanted_share, factor, first};
  const auto update = [&]<class A>(TypeTag<A>) {
    on_device(
        weight.context(), "update_sparsity_weight",
        [&] {
          cpu::sparsity_weight(rule, counts.data<A>(), tokens.data<A>(), weight.data<A>(), progress.data<A>());
        },
        [&](auto& cuda) {
          cuda::sparsity_weight(rule, counts.data<A>(), tokens.data<A>(), weight.data<A>(), progress.data<A>(),
                                cuda.stream);
        });
  };
  if (t == DType::kFloat32) update(TypeTag<float>{});
  else update(TypeTag<double>{});
}

namespace cpu {

template <class A>
void sparsity_weight(const SparsityRule& r, const A* counts, const A* tokens, A* weight, A* progress) {
  sparsity_step(r, counts, tokens, weight, progress);
}

}  // namespace cpu
}  // namespace glia
