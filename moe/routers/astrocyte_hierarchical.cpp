// l_s = (W x_s + b) + (W_a x_cls + b_a): AHR, the sequence's first row biases its tokens' logits.
#include "moe/routers/top_k_router.h"

namespace glia {

RouterRow astrocyte_hierarchical_row() {
  return {"astrocyte-hierarchical",
          [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
            return std::make_unique<TopKRouter>(set, name, o, ContextMode::kAdd);
          },
          "l = (W x + b) + (W_a x_cls + b_a); softmax over the K largest",
          "Astrocyte-Inspired Hierarchical Routing (docs/science.md 1)",
          {},
          {},
          {},
          [](const OracleInputs& in) { return oracle_top_k(in, OracleContext::kAdd); }};
}

}  // namespace glia
