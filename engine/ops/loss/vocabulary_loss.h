// A linear layer over a vocabulary and the cross-entropy behind it, in one op that never holds all logits: they are made for some rows at a
// time, and where a gradient is wanted it is taken from them at once.
#pragma once
#include "engine/autograd.h"

namespace glia {

struct VocabularyLoss {
  Var loss;           // [] mean of row_losses over the rows that have a target; 0 where none has
  Tensor row_losses;  // [M] logsumexp(l) − l[target] with l = w x + b; 0 for rows without a target
  Tensor
      sums;  // [3]: Σ row_losses, rows with a target, rows whose largest logit is the target's (of equals the first)
};

// x [M, H], w [V, H], b [V] (w and b may be float32 masters where x is bfloat16), targets int32 [M]: −1 for a row without
// one; other values outside [0, V) make the loss NaN (nothing is read back). The loss is float32 (float64 for float64).
// Each weight's gradient is a sum over rows in a fixed order: the same bits every time.
VocabularyLoss vocabulary_loss(const Var& x, const Var& w, const Var& b, const Tensor& targets);
// Its loss from plain ops: all logits at once.
Var vocabulary_loss_reference(const Var& x, const Var& w, const Var& b, const Tensor& targets);

}  // namespace glia
