// The pages under docs/routers are those that the registry gives.
#include "moe/router_page.h"

#include "engine/core/file.h"
#include "tests/test.h"

namespace glia::test {
namespace {

TEST_CASE("docs: each router has its page, as its row says") {
  if (!std::filesystem::exists("docs/routers")) SKIP("not in the repository's root");
  for (const RouterRow& row : router_registry()) {
    INFO(row.name, ": make it anew with ./tools/router_pages");
    const std::string path = fmt::format("docs/routers/{}.md", row.name);
    REQUIRE(std::filesystem::exists(path));
    EXPECT(read_file(path) == router_page(row));
  }
  EXPECT(read_file("docs/mixtures.md") == mixtures_page());
}

}  // namespace
}  // namespace glia::test
