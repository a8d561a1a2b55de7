// Wall-clock time for people: progress, estimates, budgets. No result depends on it.
#pragma once
#include <chrono>

namespace glia {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace glia
