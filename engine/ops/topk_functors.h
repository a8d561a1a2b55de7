// One row of each top-k op, compiled by both compilers.
#pragma once
#include "engine/core/host_device.h"
#include "engine/ops/topk_kernels.h"

namespace glia {

// k passes over the row: each takes the largest element that comes after the previous choice in the order "larger first,
// lower index among equals". For the k of routing (1 … 8) this beats a sort, and it needs no memory.
template <class T>
GLIA_HD void top_k_row(const T* x, int64_t n, int64_t k, T* values, int32_t* indices) {
  using A = Accumulator<T>;
  for (int64_t i = 0; i < k; ++i) {
    int64_t best = -1;
    for (int64_t j = 0; j < n; ++j) {
      const A v = static_cast<A>(x[j]);
      if (i > 0) {
        const A last = static_cast<A>(x[indices[i - 1]]);
        if (v > last || (v == last && j <= indices[i - 1])) continue;
      }
      if (best < 0 || v > static_cast<A>(x[best])) best = j;
    }
    if (best < 0) best = i;  // NaN compares with nothing; stay in range
    indices[i] = static_cast<int32_t>(best);
    values[i] = x[best];
  }
}

template <class T>
GLIA_HD void scatter_row(const T* values, const int32_t* indices, int64_t n, int64_t k, T* y) {
  for (int64_t j = 0; j < n; ++j) y[j] = static_cast<T>(0.0f);
  for (int64_t i = 0; i < k; ++i)
    if (indices[i] >= 0) y[indices[i]] = values[i];
}

template <class T>
GLIA_HD void gather_row(const T* x, const int32_t* indices, int64_t k, T* values) {
  for (int64_t i = 0; i < k; ++i) values[i] = indices[i] >= 0 ? x[indices[i]] : static_cast<T>(0.0f);
}

}  // namespace glia
