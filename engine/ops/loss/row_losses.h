// Losses on a router's logits that are means over the rows which belong to a sequence. With P = softmax(logits):
//     logits [T, E], float32 or float64 → [1]
#pragma once
#include "engine/ops/sequences/sequences.h"

namespace glia {

// Router z-loss (Zoph et al. 2022, ST-MoE): mean of logsumexp(logits)². Keeps router logits small.
Var z_loss(const Var& logits, const Sequences& sequences);
// E · Σ_e f_e mean(P_e) with f_e = counts_e / (rows · per_token) (Fedus et al. 2022, eq. 4; no gradient through f). 1
// where the load is even and every token has `per_token` experts.     counts [E] in the logits' dtype
Var switch_loss(const Var& logits, const Tensor& counts, int64_t per_token, const Sequences& sequences);
// Mean of −Σ_e P_e ln P_e (Huang et al. 2024, eq. 6): low where a router is sure.
Var entropy_loss(const Var& logits, const Sequences& sequences);

}  // namespace glia
