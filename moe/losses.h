// Losses on routing: rows of a table, each attached to any router that offers what it reads, with a weight option a
// number. Returned unweighted with their weights, and counted over real rows only. To add one: a row in losses.cpp;
// flags, config.json and the training log follow.
//
// A loss that is formed after the head, from the task's loss of each row, has no row here: it is one more term of
// Model::forward's sum, which holds routings and logits at once.
#pragma once
#include "moe/oracle.h"
#include "moe/router.h"

namespace glia {

struct LossRow {
  std::vector<std::string> names;  // in the log, one a number: {"balance", "energy"}
  std::vector<OptionRow> weights;  // their weights' flags, likewise
  bool always;                     // reported though all weights are 0
  const char* formula;
  const char* source;
  Var (*compute)(const Routing& routing, const Sequences& sequences);  // [names.size()]
  std::vector<double> (*oracle)(const OracleRouting& routing, int64_t n_experts, int64_t per_token);
  bool of_matrix = false;  // reads Routing::matrix alone: only for routers with that trait
};

const std::vector<LossRow>& loss_registry();

// The flags of all weights but balance and energy, which MoeConfig has as members: configurations set those two.
std::vector<OptionRow> further_loss_weights();
// Those of losses that this router has what they read for.
std::vector<OptionRow> further_loss_weights(const RouterRow& router);

// The weights of a router's losses: the row's defaults, then what `given` sets; every flag of the table is in it. Errors:
// a weight other than 0 of a loss that reads what the router does not offer.
OptionValues loss_weights(const RouterRow& router, const OptionValues& given);
// E · Σ_e f_e P_e with f_e = counts_e / (T · per_token), P the rows' softmax; over several ranks of the rows of all, and
// then this rank's part.     scores [T, E], counts [E] of this rank
Var switch_loss_of(const Var& scores, Tensor counts, int64_t per_token, const Sequences& sequences);

// Appends to routing.losses. One expert has nothing to balance: none then.
void attach_losses(Routing& routing, const OptionValues& weights, const Sequences& sequences);

}  // namespace glia
