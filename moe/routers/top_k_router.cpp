#include "moe/routers/top_k_router.h"

#include "engine/ops/sequences.h"
#include "moe/losses.h"

namespace glia {

TopKRouter::TopKRouter(ParameterSet& set, const std::string& name, const RouterOptions& o, ContextMode mode)
    : options_(o), mode_(mode), token_(set, name + ".token", o.hidden, o.n_experts, o.init_std) {
  if (mode != ContextMode::kNone)
    context_ = std::make_unique<Linear>(set, name + ".context", o.hidden, o.n_experts, o.init_std);
}

Var TopKRouter::context_rows(const Var& x, const Pass& pass) const {
  return first_rows(x, pass.sequences);
}

Routing TopKRouter::route(const Var& x, const Pass& pass) const {
  Var context;  // [B, E], float32 like all router logits
  if (context_)
    context = router_logits(context_rows(x, pass), context_->weight->var, context_->bias->var, {},
                            ContextMode::kNone, pass.first_rows);
  const Var logits =
      router_logits(x, token_.weight->var, token_.bias->var, context, mode_, pass.sequences);  // [T, E]
  Gates g = top_k_gates(logits, options_.top_k, pass.sequences);
  Routing r;
  r.experts = std::move(g.experts);
  r.gates = std::move(g.gates);
  r.n_experts = options_.n_experts;
  add_load_losses(r, options_, pass.sequences);
  add_z_loss(r, logits, options_, pass.sequences);
  return r;
}

}  // namespace glia
