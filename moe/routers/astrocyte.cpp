// l_s = (W x_s + b) * sigmoid(W_a x_cls + b_a): the sequence's first row gates its tokens' logits.
#include "moe/routers/top_k_router.h"

namespace glia {

std::unique_ptr<Router> make_astrocyte_router(ParameterSet& set, const std::string& name,
                                              const RouterOptions& options) {
  return std::make_unique<TopKRouter>(set, name, options, ContextMode::kGate);
}

}  // namespace glia
