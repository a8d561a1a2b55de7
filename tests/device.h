// The device that tests run on: GLIA_TEST_DEVICE (make test-gpu sets it to cuda), else the CPU.
#pragma once
#include <cstdlib>
#include <string_view>
#include <vector>

#include "engine/device/context.h"

namespace glia::test {

inline Device device() {
  const char* name = std::getenv("GLIA_TEST_DEVICE");
  return name ? Device::parse(name) : Device::cpu();
}
inline bool on_gpu() { return device().is_cuda(); }

// Every set of products that a context can be told to take: its own choice, and the others that run there.
inline std::vector<Kernels> kernel_sets(Context& context) {
  if (context.device().is_cpu() || !context.cuda().is_hopper()) return {Kernels::kAuto};
  return {Kernels::kAuto, Kernels::kPortable};
}

}  // namespace glia::test
