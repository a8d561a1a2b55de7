// Along the last axis, shifted by the maximum.     x [.., N]
#pragma once
#include "engine/autograd.h"

namespace glia {

Var softmax(const Var& x);      // → [.., N]
Var log_softmax(const Var& x);  // → [.., N]
Var logsumexp(const Var& x);    // → [..]

// Mean over rows of −log softmax(logits)[label].
//                      logits [B, C], labels int32 [B], each in [0, C) → [], in float32 for bfloat16
// Labels are not checked on a GPU (that would wait); an out-of-range label makes the loss NaN.
Var cross_entropy(const Var& logits, const Tensor& labels);

}  // namespace glia
