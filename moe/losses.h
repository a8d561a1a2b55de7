// Auxiliary losses of a router; each is returned unweighted with its weight, and counted over real rows only.
#pragma once
#include "moe/router.h"

namespace glia {

// {"balance", "energy"} of docs/science.md 1 with weights α and β. One expert has nothing to balance: none then.
void add_load_losses(Routing& routing, const RouterOptions& options, const Sequences& sequences);
// {"z"}, where its weight is not 0.     logits [T, E]
void add_z_loss(Routing& routing, const Var& logits, const RouterOptions& options, const Sequences& sequences);

}  // namespace glia
