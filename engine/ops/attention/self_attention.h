// Attention with the projection to q, k, v in front of it: attention(linear(x, w, b)). On a GPU's tensor-core paths
// the projection's bias gradient comes out of the attention's backward pass instead of a pass of its own.
//     x [T, H], w [3H, H], b [3H] → [T, H]
#pragma once
#include "engine/ops/attention/attention.h"

namespace glia {

Var self_attention(const Var& x, const Var& w, const Var& b, const Sequences& sequences,
                   const AttentionOptions& options);
Var self_attention_reference(const Var& x, const Var& w, const Var& b, const Sequences& sequences,
                             const AttentionOptions& options);

// Its first row of each sequence alone (all that a classifier behind the last layer reads): on the tensor-core paths
// only these rows are queries, so a third of the projection and most of the attention are saved.     → [B, H]
Var self_attention_first(const Var& x, const Var& w, const Var& b, const Sequences& sequences,
                         const AttentionOptions& options);
Var self_attention_first_reference(const Var& x, const Var& w, const Var& b, const Sequences& sequences,
                                   const AttentionOptions& options);

}  // namespace glia
