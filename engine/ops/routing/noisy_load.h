// How probable it is that an expert is among a token's K largest if its own noise were drawn anew, the others' left as it is
// (Shazeer et al. 2017, appendix A): a count of the pairs with a gradient.
//     p_te = Φ((clean_te − threshold_te) / std_te),  threshold: the K-th largest of the token's other noisy logits
// The gradient goes through the threshold too, as in the released code.
//     clean, std, noisy [T, E] (float32 or float64), 1 <= K < E → [T, E]
#pragma once
#include "engine/autograd.h"

namespace glia {

Var noisy_load(const Var& clean, const Var& std, const Var& noisy, int64_t k);

}  // namespace glia
