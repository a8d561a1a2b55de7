#include "experiments/training/feed/batch_feed.h"

#include <algorithm>

namespace glia {

int64_t StepParts::before(int64_t step) const {
  int64_t batches = std::max<int64_t>(0, step - ramp) * all;
  for (int64_t s = 0; s < std::min(step, ramp); ++s) batches += of(s);
  return batches;
}

}  // namespace glia
