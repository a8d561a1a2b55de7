#include "engine/core/build_info.h"

namespace glia {

const char* build_commit() { return GLIA_COMMIT; }
const char* build_variant() { return GLIA_VARIANT; }

}  // namespace glia
