#include "moe/losses.h"

#include "engine/ops/loss/z_loss.h"
#include "engine/ops/moe/moe.h"

namespace glia {

void add_load_losses(Routing& r, const RouterOptions& o, const Sequences& sequences) {
  if (r.n_experts < 2) return;  // the variance of one number is 0 / 0
  r.losses.push_back(
      {{"balance", "energy"}, {o.balance, o.energy}, load_losses(r.gates, r.experts, r.n_experts, sequences)});
}

void add_z_loss(Routing& r, const Var& logits, const RouterOptions& o, const Sequences& sequences) {
  if (o.z_loss != 0) r.losses.push_back({{"z"}, {o.z_loss}, z_loss(logits, sequences)});
}

}  // namespace glia
