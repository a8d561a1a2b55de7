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
    const std::string path = fmt::format("docs/routers/{}{}.md", router_folder(row), row.name);
    REQUIRE(std::filesystem::exists(path));
    EXPECT(read_file(path) == router_page(row));
  }
  EXPECT(read_file("docs/mixtures.md") == mixtures_page());
  EXPECT(read_file("docs/routers/README.md") == routers_page());
  EXPECT(read_file("docs/routers/losses.md") == losses_page());
  EXPECT(read_file("docs/routers/update-rules.md") == update_rules_page());
  // science.md has a row of each, whoever adds one.
  const std::string science = read_file("docs/science.md");
  for (const RouterRow& row : router_registry()) {
    INFO(row.name, ": a row of docs/science.md 7");
    EXPECT(contains(science, fmt::format("\n| {} ", row.name)));
  }
  // None is left of a router that has gone, or of the folder where one was.
  size_t pages = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator("docs/routers"))
    pages += entry.path().extension() == ".md" && entry.path().filename() != "README.md";
  EXPECT(pages == router_registry().size() + 2);
  RouterRow lost = router_registry()[0];
  lost.name = "no-such";
  EXPECT(contains(error_of([&] { router_folder(lost); }), "expected the router no-such's file no_such.cpp"));
}

}  // namespace
}  // namespace glia::test
