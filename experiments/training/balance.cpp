#include "experiments/training/balance.h"

#include <algorithm>
#include <numeric>

#include "engine/core/check.h"

namespace glia {

bool is_turn_of(size_t device, std::span<const double> left, double next, double waiting) {
  CHECK(device < left.size(), "is_turn_of: wants a device below {}, got {}", left.size(), device);
  if (left[device] <= std::ranges::min(left)) return true;
  const double fair = std::accumulate(left.begin(), left.end(), waiting) / static_cast<double>(left.size());
  return left[device] + next <= fair;
}

}  // namespace glia
