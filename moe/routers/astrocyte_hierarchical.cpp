// l_s = (W x_s + b) + (W_a x_cls + b_a): AHR, the sequence's first row biases its tokens' logits.
#include "moe/routers/top_k_router.h"

namespace glia {

std::unique_ptr<Router> make_astrocyte_hierarchical_router(ParameterSet& set, const std::string& name,
                                                           const RouterOptions& options) {
  return std::make_unique<TopKRouter>(set, name, options, ContextMode::kAdd);
}

}  // namespace glia
