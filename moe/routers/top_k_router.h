// What softmax and the astrocyte routers share: linear logits, optionally modulated by a context of the sequence, and
// a softmax over the K largest.
#pragma once
#include "engine/ops/moe/top_k_route.h"
#include "moe/router.h"
#include "nn/linear.h"

namespace glia {

// W [E, H], b [E] of logits.
Linear router_linear(ParameterSet& set, const std::string& name, const RouterOptions& options);

class TopKRouter : public Router {
 public:
  TopKRouter(ParameterSet& set, const std::string& name, const RouterOptions& options, ContextMode mode);
  Routing route(const RoutingInputs& in) const final;
  Explanation explain(const RoutingInputs& in) const final;

 protected:
  // What enters the logits of each sequence's rows: W_a x_cls + b_a, unless a router says otherwise.
  virtual RouteContext context(const RoutingInputs& in) const;

  ContextMode mode_;
  std::unique_ptr<Linear> context_;  // W_a [E, H], b_a [E]; null without context

 private:
  RouterOptions options_;
  Linear token_;  // W [E, H], b [E]
};

}  // namespace glia
