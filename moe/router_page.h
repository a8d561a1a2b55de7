// A router's page under docs/routers/, from its row, and the mixtures': what tools/router_pages writes and a test compares.
#pragma once
#include <string>

#include "moe/mixture.h"

namespace glia {

std::string router_page(const RouterRow& row);
// docs/mixtures.md: all that may stand in an FFN's place.
std::string mixtures_page();

}  // namespace glia
