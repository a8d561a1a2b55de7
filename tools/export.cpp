// A finished run's model for Hugging Face's transformers:  ./tools/export results/seed0/dense my_model
#include "experiments/records/export.h"
#include "engine/core/check.h"
#include "tools/tool.h"

using namespace glia;

int main(int argc, char** argv) {
  std::string run, dir, vocabulary;
  CLI::App app("Writes a finished run's model to a folder that transformers (dense models) and --init load.");
  app.add_option("run", run, "folder of a finished run, such as results/seed0/dense")->required();
  app.add_option("dir", dir, "a new folder")->required();
  app.add_option("--vocab", vocabulary, "the vocabulary (default: vocab.txt of the result folder)");
  return run_tool("export", app, argc, argv, [&] {
    export_run(results::read_run(run), dir, vocabulary);
    fmt::print("{}: written\n", dir);
    return 0;
  });
}
