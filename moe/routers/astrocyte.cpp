// l_s = (W x_s + b) * sigmoid(W_a x_cls + b_a): the sequence's first row gates its tokens' logits.
#include "moe/routers/top_k_router.h"

namespace glia {

RouterRow astrocyte_row() {
  return {"astrocyte",
          [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
            return std::make_unique<TopKRouter>(set, name, o, ContextMode::kGate);
          },
          "l = (W x + b) * sigmoid(W_a x_cls + b_a); softmax over the K largest",
          "Astrocyte-Inspired Hierarchical Routing (docs/science.md 1)",
          {},
          {},
          {},
          [](const OracleInputs& in) { return oracle_top_k(in, OracleContext::kGate); }};
}

}  // namespace glia
