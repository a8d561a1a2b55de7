#include "moe/routers/top_k_router.h"

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/sequences/sequences.h"
#include "nn/row_cache.h"

namespace glia {

Linear router_linear(ParameterSet& set, const std::string& name, const RouterOptions& o) {
  const Linear linear(set, name, o.hidden, o.n_experts, o.init_std);
  linear.weight->expert_axis = linear.bias->expert_axis = 0;
  return linear;
}

TopKRouter::TopKRouter(ParameterSet& set, const std::string& name, const RouterOptions& o, ContextMode mode)
    : mode_(mode), options_(o), token_(router_linear(set, name + ".token", o)) {
  if (mode != ContextMode::kNone) context_ = std::make_unique<Linear>(router_linear(set, name + ".context", o));
}

RouteContext TopKRouter::context(const RoutingInputs& in) const {
  if (!context_) return {};
  // Of a sequence that grows the first row was there once, and its context stays.
  if (RowCache* cache = in.pass.cache)
    return {mode_, {}, {}, cache->once(in.layer, "context", [&] {
              return router_logits(first_rows(in.x, in.pass.sequences), context_->weight->var, context_->bias->var,
                                   {}, ContextMode::kNone, in.pass.first_rows)
                  .value();
            })};
  return {mode_, context_->weight->var, context_->bias->var, {}};
}

Routing TopKRouter::route(const RoutingInputs& in) const {
  Routed routed = glia::route(in.x, token_.weight->var, token_.bias->var, context(in), options_.top_k,
                              in.pass.sequences, in.pass.first_rows);
  Routing r;
  r.experts = std::move(routed.experts);
  r.gates = std::move(routed.gates);
  r.n_experts = options_.n_experts;
  r.chosen = options_.top_k;
  r.scores = std::move(routed.logits);
  r.load_losses = std::move(routed.losses);
  r.importance = std::move(routed.importance);
  r.matrix = token_.weight->var;
  return r;
}

Explanation TopKRouter::explain(const RoutingInputs& in) const {
  const Sequences &all = in.pass.sequences, &first = in.pass.first_rows;
  Explanation e;
  e.token_logits = router_logits(in.x, token_.weight->var, token_.bias->var, {}, ContextMode::kNone, all).value();
  if (!context_) return e;
  RouteContext c = context(in);
  if (!c.logits.defined())
    c.logits = router_logits(first_rows(in.x, all), c.weight, c.bias, {}, ContextMode::kNone, first);
  e.mode = mode_;
  e.context = mode_ == ContextMode::kAdd ? c.logits.value() : sigmoid(c.logits).value();
  return e;
}

}  // namespace glia
