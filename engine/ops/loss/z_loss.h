// Router z-loss (Zoph et al. 2022, ST-MoE): mean over the rows that belong to a sequence of logsumexp(logits)².
// Keeps router logits small.     logits [T, E], float32 or float64 → [1]
#pragma once
#include "engine/ops/rows/sequences.h"

namespace glia {

Var z_loss(const Var& logits, const Sequences& sequences);

}  // namespace glia
