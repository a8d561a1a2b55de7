// Multi-head self-attention over packed sequences (Vaswani et al. 2017); a row sees the rows of its own sequence
// only.
//     qkv [T, 3H], row = q | k | v, each A heads × D; H = A·D → [T, H]; the tail's rows are 0
// out = dropout(softmax(q kᵀ / √D)) v. Saved: qkv, out and the row-wise log-sum-exp; probabilities are computed
// again. Dropout element of (query row t, head a, key j): (t·A + a)·1024 + j, so sequences are at most 1024 long.
#pragma once
#include "engine/ops/sequences/sequences.h"

namespace glia {

struct AttentionOptions {
  int64_t heads = 1;
  bool causal = false;
  double dropout = 0;
  RandomKey key;
};

Var attention(const Var& qkv, const Sequences& sequences, const AttentionOptions& options);
// The same from plain ops, one sequence and head at a time; reads the lengths back, so it waits. For tests.
Var attention_reference(const Var& qkv, const Sequences& sequences, const AttentionOptions& options);

// Of one causal sequence, whose rows in front of `first` earlier calls had: what the heads say of the others, the same bits as
// attention() on a CPU. No dropout, no gradient.     qkv [n, 3H] → [n − first, H]
Tensor attention_from(const Tensor& qkv, int64_t first, const Sequences& sequence, const AttentionOptions& options);

// What the kernels of attention_kernels.h are told, checked. It points into the tensors of `sequences`.
struct AttentionArgs;
AttentionArgs attention_args(int64_t rows, int64_t hidden, const Sequences& sequences,
                             const AttentionOptions& options);

}  // namespace glia
