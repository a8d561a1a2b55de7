// The training loss from its terms, with the parts that the log wants, in one launch:
//     parts[p] = Σ scale · value over the elements that belong to part p;     total = Σ_p weight[p] · parts[p]
// So every auxiliary loss is counted once, and what is reported is what was trained on.
#pragma once
#include <vector>

#include "engine/autograd.h"

namespace glia {

struct LossTerm {
  Var values;             // [] or [n]; float32 or float64, the same for all terms
  std::vector<int> part;  // of each element
  double scale = 1;
};

struct LossSum {
  Var total;     // []
  Tensor parts;  // [P]; no gradient flows through it
};

// One launch for every 96 terms (of up to 4 elements: a longer one counts as several); at most 64 parts.
LossSum sum_losses(const std::vector<LossTerm>& terms, const std::vector<double>& weights);

}  // namespace glia
