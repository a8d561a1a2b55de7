// l_s = W x_s + b: the plain top-k router (Shazeer et al. 2017 without noise).
#include "moe/routers/top_k_router.h"

namespace glia {

std::unique_ptr<Router> make_softmax_router(ParameterSet& set, const std::string& name,
                                            const RouterOptions& options) {
  return std::make_unique<TopKRouter>(set, name, options, ContextMode::kNone);
}

}  // namespace glia
