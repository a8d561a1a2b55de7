// A router's page under docs/routers/, from its row: what tools/router_pages writes and a test compares.
#pragma once
#include <string>

#include "moe/router.h"

namespace glia {

std::string router_page(const RouterRow& row);

}  // namespace glia
