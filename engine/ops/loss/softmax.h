// Along the last axis, shifted by the maximum.     x [.., N]
#pragma once
#include "engine/autograd.h"

namespace glia {

Var softmax(const Var& x);      // → [.., N]
Var log_softmax(const Var& x);  // → [.., N]
Var logsumexp(const Var& x);    // → [..]

// Mean of −log softmax(logits)[label] over the rows that have a label; 0 where none has.
//                      logits [B, C], labels int32 [B], each in [0, C) or −1: none → [], in float32 for bfloat16
// Labels are not checked on a GPU (that would wait); any other label makes the loss NaN.
Var cross_entropy(const Var& logits, const Tensor& labels);

}  // namespace glia
