// ./tools/bench SUBJECT [FLAGS]: times one part of the system; each subject has --help and --json of its own.
#include <fmt/core.h>

#include <string_view>

#include "tools/bench_step.h"
#include "tools/bench_tokenizer.h"

namespace {

struct Subject {
  const char* name;
  int (*run)(int argc, char** argv);
  const char* what;
};

constexpr Subject kSubjects[] = {
    {"tokenizer", bench_tokenizer, "WordPiece on AG News text: pieces/s, MB/s"},
    {"step", bench_step, "a training step: ms, tokens/s, TFLOP/s, memory, and where the time goes"},
};

}  // namespace

int main(int argc, char** argv) {
  for (const Subject& subject : kSubjects)
    if (argc > 1 && std::string_view(argv[1]) == subject.name) return subject.run(argc - 1, argv + 1);
  const bool help = argc > 1 && std::string_view(argv[1]) == "--help";
  if (argc > 1 && !help) fmt::print(stderr, "bench: unknown subject '{}'\n", argv[1]);
  fmt::print(help ? stdout : stderr, "usage: bench SUBJECT [FLAGS]\n");
  for (const Subject& subject : kSubjects) fmt::print(help ? stdout : stderr, "  {:<10} {}\n", subject.name, subject.what);
  return help ? 0 : 2;
}
