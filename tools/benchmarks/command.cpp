#include "tools/benchmarks/command.h"

#include <fmt/format.h>

#include "engine/core/check.h"
#include "engine/core/message.h"
#include "experiments/training/presets.h"

namespace glia {

std::vector<const char*> BenchCommand::pointers() const {
  std::vector<const char*> all;
  for (const std::string& word : words) all.push_back(word.c_str());
  return all;
}

BenchCommand split_command(const char* name, int argc, char** argv, const std::function<void(CLI::App&)>& own,
                           const char* steps_flag) {
  BenchCommand bench;
  bench.command = command_text(argc, argv);
  CLI::App app;
  app.set_help_flag();
  app.allow_extras();
  app.add_option(steps_flag, bench.steps);
  app.add_option("--json", bench.json_path);
  if (own) own(app);
  app.parse(argc, argv);
  if (bench.steps < 1) fail_input("{}: expected at least 1, got {}", steps_flag, bench.steps);
  bench.words = app.remaining();
  bench.words.insert(bench.words.begin(), name);
  return bench;
}

std::optional<Options> train_options(const BenchCommand& bench, const std::string& help) {
  const std::vector<const char*> words = bench.pointers();
  const CommandLine line = parse_command_line(static_cast<int>(words.size()), words.data(), Flag::kTrainOnly, help);
  if (line.done) return {};
  Options options = resolve(line);
  options.log_every = 1 << 10;
  return options;
}

int bench_main(const char* name, const std::function<int()>& f) {
  try {
    return f();
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}: {}\n", name, message_of(error));
    return 2;
  }
}

}  // namespace glia
