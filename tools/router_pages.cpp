// ./tools/router_pages docs/routers — a page for each router of the registry, in the folder that its file has under
// moe/routers; their list, losses on routing and update rules, and the mixtures' page beside it. Run in the repository's root.
#include "engine/core/file.h"
#include "moe/router_page.h"
#include "tools/tool.h"

int main(int argc, char** argv) {
  using namespace glia;
  CLI::App app(
      "writes docs/routers: a page for each router, for losses on routing and for update rules, from their tables");
  std::string folder = "docs/routers";
  app.add_option("folder", folder, "where the pages go");
  return run_tool("router_pages", app, argc, argv, [&] {
    make_folder(folder);
    for (const RouterRow& row : router_registry()) {
      const std::string room = router_folder(row);
      make_folder(folder + "/" + room);
      write_file_atomic(fmt::format("{}/{}{}.md", folder, room, row.name), router_page(row));
    }
    write_file_atomic(folder + "/README.md", routers_page());
    write_file_atomic(folder + "/losses.md", losses_page());
    write_file_atomic(folder + "/update-rules.md", update_rules_page());
    write_file_atomic(folder + "/../mixtures.md", mixtures_page());
    fmt::print("{}: {} pages\n", folder, router_registry().size() + 3);
    return 0;
  });
}
