#include "engine/core/check.h"

namespace glia {

void fail_check(const char* file, int line, const std::string& message) {
  throw Error(fmt::format("{} ({}:{})", message, file, line));
}

}  // namespace glia
