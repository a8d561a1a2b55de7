// What the benches of training steps have in common: a few flags of their own beside those of the program that they time.
#pragma once
#include <CLI/CLI.hpp>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "experiments/training/options.h"

namespace glia {

// A bench's own flags, and the words that are left, behind `name` as the program's: "bench step".
struct BenchCommand {
  int64_t steps = 50;     // --steps, or the name that the bench gives it; 1 or more
  std::string json_path;  // --json
  std::string command;    // as it was typed
  std::vector<std::string> words;

  std::vector<const char*> pointers() const;
};
// `own` declares what the bench has besides.
BenchCommand split_command(const char* name, int argc, char** argv, const std::function<void(CLI::App&)>& own = {},
                           const char* steps_flag = "--steps");
// The flags of ./experiments/train, resolved, with losses that nobody reads; nothing when --help was asked for and printed.
std::optional<Options> train_options(const BenchCommand& bench, const std::string& help);
// Runs f, whose errors are one line on stderr and exit status 2.
int bench_main(const char* name, const std::function<int()>& f);

}  // namespace glia
