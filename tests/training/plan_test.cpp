// What runs are refused before any of them begins.
#include "experiments/training/feed/data_source.h"
#include "experiments/training/presets.h"
#include "experiments/training/run.h"
#include "tests/nn/helpers.h"
#include "tests/training/flag_words.h"

namespace glia::test {
namespace {

Options options_of(const std::string& more) {
  std::vector<std::string> words = words_of(
      "train " + std::string(kTinyFlags) +
      "--progress off --synthetic-rows 160 --synthetic-test-rows 48 --vocab-size 400 --batch 8 --out none " + more);
  return resolve(
      parse_command_line(static_cast<int>(words.size()), pointers_to(words).data(), Flag::kTrainOnly, ""));
}

std::string refusal(const std::string& flags) {
  return error_of([&] { plan_runs(options_of(flags), {"softmax-moe"}); });
}

TEST_CASE("plan: a router that tells fewer labels apart than the data has is refused by its option") {
  const Dataset data = load_data(options_of(""));
  for (const RouterRow& row : router_registry()) {
    if (!row.labels) continue;
    INFO(std::string(row.name));
    const auto with = [&](int64_t labels) {
      const Options o = options_of(fmt::format("--router {} --{} {}", row.name, row.labels->name, labels));
      return error_of([&] { require_labels_told(plan_runs(o, {"softmax-moe"}).at(0), data); });
    };
    EXPECT(with(data.classes()).empty());
    EXPECT(
        contains(with(data.classes() - 1), fmt::format("--{}: expected the {} labels of the data at least, got {}",
                                                       row.labels->name, data.classes(), data.classes() - 1)));
  }
}

TEST_CASE("plan: a mixture and its router that cannot go together are refused before anything is read") {
  const std::string stateful = router_where([](const RouterRow& row) { return row.traits.stateful; });
  EXPECT(contains(refusal("--mixture soft --router " + stateful), "learns from its scores and keeps no state"));
  const std::string switched = router_with_option("context-balance");  // keeps state where it is told to
  EXPECT(contains(refusal("--mixture merged --context-balance on --router " + switched), "with load_bias"));
  EXPECT(refusal("--mixture merged --router " + switched).empty());
  EXPECT(contains(refusal("--slots 2"), "--slots: expected --mixture soft"));
  EXPECT(refusal("--mixture soft --slots 2").empty());
}

}  // namespace
}  // namespace glia::test
