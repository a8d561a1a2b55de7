#include "moe/routers/top_k_router.h"

#include "engine/ops/rows/sequences.h"
#include "moe/losses.h"

namespace glia {

TopKRouter::TopKRouter(ParameterSet& set, const std::string& name, const RouterOptions& o, ContextMode mode)
    : mode_(mode), options_(o), token_(set, name + ".token", o.hidden, o.n_experts, o.init_std) {
  if (mode != ContextMode::kNone)
    context_ = std::make_unique<Linear>(set, name + ".context", o.hidden, o.n_experts, o.init_std);
}

RouteContext TopKRouter::context(const Var&, const Pass&) const {
  if (!context_) return {};
  return {mode_, context_->weight->var, context_->bias->var, {}};
}

Routing TopKRouter::route(const Var& x, const Pass& pass) const {
  Routed routed = glia::route(x, token_.weight->var, token_.bias->var, context(x, pass), options_.top_k,
                              pass.sequences, pass.first_rows);
  Routing r;
  r.experts = std::move(routed.experts);
  r.gates = std::move(routed.gates);
  r.n_experts = options_.n_experts;
  if (r.n_experts > 1)  // the variance of one number is 0 / 0
    r.losses.push_back({{"balance", "energy"}, {options_.balance, options_.energy}, std::move(routed.losses)});
  add_z_loss(r, routed.logits, options_, pass.sequences);
  return r;
}

}  // namespace glia
