// Blends of a sequence's rows and back, for mixtures whose experts read slots: weighted sums of tokens (Puigcerver et al.
// 2024, Soft MoE). Letters: T rows (tail included), B sequences, S slots of each, H a row's size. Weights have the
// accumulation type of x: float32, or float64.
#pragma once
#include "engine/ops/sequences/sequences.h"

namespace glia {

// Softmax of each column over each sequence's rows; 0 in the tail.     x [T, S] → [T, S]
Var sequence_softmax(const Var& x, const Sequences& sequences);
// z[b·S + s] = Σ_{t of b} w[t, s] x[t], t ascending; 0 of a sequence without rows.     x [T, H], w [T, S] → [B·S, H]
Var blend_rows(const Var& x, const Var& w, const Sequences& sequences);
// y[t] = Σ_s w[t, s] z[b·S + s] of the sequence b of t, 0 in the tail.     z [B·S, H], w [T, S] → [T, H]
Var spread_slots(const Var& z, const Var& w, const Sequences& sequences);

// Whose each slot is: the first `of_each` of a sequence's slots are expert 0's, the next expert 1's.     → int32 [B·S, 1]
Tensor slot_experts(const Sequences& sequences, int64_t slots, int64_t of_each);

}  // namespace glia
