// A control: the softmax router with weights that stay as they were drawn. What specialises then is the hidden states.
#include "moe/routers/top_k_router.h"

namespace glia {

RouterRow frozen_random_row() {
  return {"frozen-random",
          [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
            auto router = std::make_unique<TopKRouter>(set, name, o, ContextMode::kNone);
            for (const char* part : {".token.weight", ".token.bias"}) set.freeze(name + part);
            return router;
          },
          "l = W x + b with W as it was drawn and b = 0; softmax over the K largest",
          "a control (docs/science.md 7)",
          {.untrained = true},
          {},
          {},
          [](const OracleInputs& in) { return oracle_top_k(in, OracleContext::kNone); }};
}

}  // namespace glia
