// The K largest of each row in descending order; of equal values the lower index comes first.     x [T, N] → [T, K]
#pragma once
#include "engine/autograd.h"

namespace glia {

struct TopK {
  Var values;      // [T, K]; gradient flows to the chosen elements
  Tensor indices;  // int32 [T, K]
};
TopK top_k(const Var& x, int64_t k);  // 1 <= k <= N

// g[t, indices[t, k]] = values[t, k], 0 elsewhere.  values [T, K], indices int32 [T, K], distinct in a row → [T, N]
Var scatter_last(const Var& values, const Tensor& indices, int64_t n);

}  // namespace glia
