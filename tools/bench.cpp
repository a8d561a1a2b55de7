// bench ops | tokenizer | step | pretrain | ranks | scale: how fast, beside what this machine can reach at all, measured in the same run.
#include <fmt/format.h>

#include <cstring>

#include "engine/core/build_info.h"
#include "tools/benchmarks/ops.h"
#include "tools/benchmarks/pretrain.h"
#include "tools/benchmarks/ranks.h"
#include "tools/benchmarks/scale.h"
#include "tools/benchmarks/step.h"
#include "tools/benchmarks/tokenizer.h"
#include "tools/tool.h"

namespace {

struct Command {
  const char* name;
  int (*run)(int argc, char** argv);
  const char* help;
};
constexpr Command kCommands[] = {
    {"ops", bench_ops, "every op at the experiment's shapes"},
    {"tokenizer", bench_tokenizer, "WordPiece, pieces and bytes a second"},
    {"step", bench_step, "whole training steps"},
    {"pretrain", bench_pretrain, "steps of masked-LM pretraining"},
    {"ranks", bench_ranks, "steps of several ranks beside one"},
    {"scale", bench_scale, "steps over experts, width, depth and tokens, beside their floors"},
};

// The commands as a page; each has its own: bench COMMAND --help-man.
glia::Manual manual() {
  glia::Manual page{
      "bench",
      glia::build_commit(),
      "Measures speed beside the ceilings of this machine: bench COMMAND --help lists a command's flags.",
      {}};
  for (const Command& c : kCommands) page.entries.push_back({c.name, "", c.help, "Commands", {}, true, false});
  return page;
}

}  // namespace

int main(int argc, char** argv) {
  for (const Command& c : kCommands)
    if (argc > 1 && std::strcmp(argv[1], c.name) == 0) {
      argv[1] = argv[0];
      return c.run(argc - 1, argv + 1);
    }
  if (argc > 1 && std::strcmp(argv[1], "--version") == 0) {
    fmt::print("{}\n", glia::version_text("bench"));
    return 0;
  }
  if (argc > 1 && std::strcmp(argv[1], "--help-completion") == 0) {
    for (const Command& c : kCommands) fmt::print("{}\n", c.name);
    return 0;
  }
  if (argc > 1 && std::strcmp(argv[1], "--help-man") == 0) {
    fmt::print("{}", glia::man_page(manual()));
    return 0;
  }
  const bool asked = argc > 1 && (std::strcmp(argv[1], "--help") == 0 || std::strcmp(argv[1], "-h") == 0);
  if (argc > 1 && !asked) fmt::print(stderr, "bench: there is no '{}'\n", argv[1]);
  fmt::print(asked ? stdout : stderr, "usage: bench COMMAND [flags]; bench COMMAND --help\n");
  for (const Command& c : kCommands) fmt::print(asked ? stdout : stderr, "  {:<10} {}\n", c.name, c.help);
  return asked ? 0 : 2;
}
