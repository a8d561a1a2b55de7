#include "tests/fuzz/data_targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  glia::fuzz::vocabulary({reinterpret_cast<const char*>(data), size});
  return 0;
}
