// Loops over all cores. The chunks depend on n and grain only, never on the number of threads, so a reduction that
// keeps one partial result a chunk has the same bits on every machine.
#pragma once

#include <algorithm>
#include <cstdint>

namespace glia {

// f(begin, end) for chunks of `grain` elements.
template <class F> void parallel_for(int64_t n, int64_t grain, F&& f) {
  if (n <= grain) {
    if (n > 0) f(int64_t{0}, n);
    return;
  }
  const int64_t chunks = (n + grain - 1) / grain;
#pragma omp parallel for schedule(static)
  for (int64_t c = 0; c < chunks; ++c) f(c * grain, std::min(n, (c + 1) * grain));
}

}  // namespace glia
