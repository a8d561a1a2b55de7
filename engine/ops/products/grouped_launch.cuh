// Host side that both sets of grouped products share: checks, questions to the device, limits raised once.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <stdexcept>
#include <string>

#include "engine/device/cuda/launch.cuh"
#include "engine/ops/products/grouped_products.h"

namespace glia::cuda {

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}
inline void require(bool ok, const char* what) {
  if (!ok) throw std::runtime_error(std::string("grouped product: ") + what);
}

inline int device_value(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
  return value;
}

inline void check_groups(const RowGroups& g, int outputs, int inputs) {
  require(g.groups >= 1, "wants at least 1 group");
  require(g.rows >= 0 && (g.offsets == nullptr || g.rows % kGroupAlignment == 0),
          "grouped rows come in multiples of 128");
  require(g.offsets != nullptr || g.groups == 1, "more than one group needs offsets");
  require(outputs > 0 && inputs > 0 && outputs % 8 == 0 && inputs % 8 == 0, "sizes are multiples of 8");
}

// set() on the first call for this kernel and the current device: an attribute of a kernel is a call to the driver.
template <auto kKernel, class F> void once_per_device(F&& set) {
  static std::atomic<unsigned long long> done{0};
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  if ((done.load(std::memory_order_relaxed) >> (device & 63) & 1) != 0) return;
  set();
  done.fetch_or(1ull << (device & 63), std::memory_order_relaxed);
}

}  // namespace glia::cuda
