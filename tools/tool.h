// What every tool's main() does around its work: flags in, one line for each error out.
#pragma once
#include <fmt/format.h>

#include <CLI/CLI.hpp>

namespace glia {

// Parses the flags and runs int work(). Exit status: what work() returns; 1 when it throws; 2 for wrong flags.
template <class Work> int run_tool(const char* name, CLI::App& app, int argc, char** argv, Work&& work) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    fmt::print("{}", app.help());
    return 0;
  } catch (const CLI::ParseError& error) {
    fmt::print(stderr, "{}: {} (--help lists all flags)\n", name, error.what());
    return 2;
  }
  try {
    return work();
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}: {}\n", name, error.what());
    return 1;
  }
}

}  // namespace glia
