// l_s = (W x_s + b) * sigmoid(W_a mean(x) + b_a): the mean of the sequence's rows, CLS left out, gates the logits.
#include "moe/routers/top_k_router.h"

namespace glia {
namespace {

class MeanPoolRouter : public TopKRouter {
 public:
  MeanPoolRouter(ParameterSet& set, const std::string& name, const RouterOptions& options)
      : TopKRouter(set, name, options, ContextMode::kGate) {}

 protected:
  RouteContext context(const RoutingInputs& in) const override {
    // In the padded layout of the published code padding enters the mean (docs/science.md 6); packed rows have no
    // padding.
    Sequences all = in.pass.sequences;
    all.key_lengths = {};
    return {mode_,
            {},
            {},
            router_logits(sequence_mean(in.x, all, true), context_->weight->var, context_->bias->var, {},
                          ContextMode::kNone, in.pass.first_rows)};
  }
};

}  // namespace

RouterRow astrocyte_meanpool_row() {
  return {"astrocyte-meanpool",
          [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
            return std::make_unique<MeanPoolRouter>(set, name, o);
          },
          "l = (W x + b) * sigmoid(W_a mean(x) + b_a), mean without CLS; softmax over the K largest",
          "Astrocyte-Inspired Hierarchical Routing (docs/science.md 1)",
          {.reads_future = true},
          {},
          {},
          [](const OracleInputs& in) { return oracle_top_k(in, OracleContext::kGateByMean); }};
}

}  // namespace glia
