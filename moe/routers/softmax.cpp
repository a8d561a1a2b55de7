// l_s = W x_s + b: the plain top-k router (Shazeer et al. 2017 without noise).
#include "moe/routers/top_k_router.h"

namespace glia {

RouterRow softmax_row() {
  return {"softmax",
          [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
            return std::make_unique<TopKRouter>(set, name, o, ContextMode::kNone);
          },
          "l = W x + b; softmax over the K largest",
          "Shazeer et al. 2017, arXiv 1701.06538, without noise",
          {},
          {},
          {},
          [](const OracleInputs& in) { return oracle_top_k(in, OracleContext::kNone); }};
}

}  // namespace glia
