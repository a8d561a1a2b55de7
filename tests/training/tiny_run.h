// A model of a few thousand weights on a small synthetic corpus, and a run of it.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "experiments/training/feed/data_source.h"
#include "experiments/training/presets.h"
#include "experiments/training/run.h"
#include "tests/training/flag_words.h"

namespace glia::test {

inline Options tiny(std::vector<const char*> more = {}) {
  std::vector<std::string> words = words_of(
      "run_all " + std::string(kTinyFlags) +
      "--layers 2 --progress off --synthetic-rows 160 --synthetic-test-rows 48 --vocab-size 400 --batch 8 --eval-batch 20 --epochs 1 --lr 0.003 --log-every 4 --eval-every 9 --difficulty 0.1");
  // Flags of the synthetic corpus are errors beside another data set, a vocabulary's size is one beside --vocab.
  const auto drop = [&](const char* beside, std::vector<std::string> names) {
    if (std::ranges::find(more, std::string(beside)) == more.end()) return;
    for (const std::string& name : names) {
      const auto at = std::ranges::find(words, name);
      words.erase(at, at + 2);
    }
  };
  drop("--csv-train", {"--synthetic-rows", "--synthetic-test-rows", "--difficulty"});
  drop("--vocab", {"--vocab-size"});
  words.insert(words.end(), more.begin(), more.end());
  return resolve(parse_command_line(static_cast<int>(words.size()), pointers_to(words).data(), Flag::kRunAll, ""));
}

inline RunOutcome run_one(Options options, const std::string& config, const Dataset& data) {
  Progress progress(Progress::Mode::kOff, stdout);
  options.configs = config;
  const RunSpec spec = plan_runs(options, {config}).at(0);
  const int id = progress.start(spec.title(), 1);
  return execute_run(spec, data, data_fingerprint(data), Device::cpu(), "test", progress, id);
}

}  // namespace glia::test
