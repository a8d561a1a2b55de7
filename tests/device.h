// The device that tests run on: GLIA_TEST_DEVICE (make test-gpu sets it to cuda), else the CPU.
#pragma once
#include <cstdlib>
#include <string_view>

#include "engine/device/context.h"

namespace glia::test {

inline Device device() {
  const char* name = std::getenv("GLIA_TEST_DEVICE");
  return name ? Device::parse(name) : Device::cpu();
}
inline bool on_gpu() { return device().is_cuda(); }

}  // namespace glia::test
