// The pages under docs/routers/, from the rows of routers, losses and update rules, and the mixtures': what tools/router_pages writes and a test compares.
#pragma once
#include <string>

#include "moe/mixture.h"

namespace glia {

std::string router_page(const RouterRow& row);
// The folder of its page under docs/routers, which is that of its file under `sources`: "scores/", or "" at the top. A router
// without a file there is an error.
std::string router_folder(const RouterRow& row, const std::string& sources = "moe/routers");
// docs/routers/README.md, losses.md and update-rules.md: their list, losses on routing, and what changes the experts' updates.
std::string routers_page();
std::string losses_page();
std::string update_rules_page();
// docs/mixtures.md: all that may stand in an FFN's place.
std::string mixtures_page();

}  // namespace glia
