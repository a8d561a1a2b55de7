// Every router's own losses, draws and choices over the ranks: those of the whole batch.
#include <algorithm>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/moe/moe.h"
#include "engine/ops/rows/reduce.h"
#include "tests/moe/bench.h"
#include "tests/training/over_ranks.h"

namespace glia::test {
namespace {

// The options of a router that are weights of its own losses: what it returns as one when it is given that.
std::vector<const char*> loss_weights_of(const RouterRow& row) {
  constexpr double kMark = 0.737;
  std::vector<const char*> found;
  for (const OptionRow& option : row.options) {
    if (!std::holds_alternative<double>(option.standard) || option.least > kMark || option.most < kMark) continue;
    OptionValues own;
    own.set(option.name, kMark);
    Bench bench(row.name, 4, 2, {5, 1, 7}, 0, own);
    for (const AuxiliaryLosses& losses : bench.run(bench.input(), false, true).routing.losses)
      if (std::ranges::count(losses.weights, kMark) > 0) found.push_back(option.name);
  }
  return found;
}

// As large as the task's loss, or a wrong one would move nothing that is seen.
std::vector<std::string> weights_of(const RouterRow& row) {
  std::vector<std::string> words;
  for (const char* option : loss_weights_of(row)) words.push_back(fmt::format("--{}=1", option));
  if (row.name == std::string_view("dselect-k")) words = {"--selector-entropy=1e-3"};  // a sum over tokens
  if (row.name == std::string_view("remoe")) words = {"--sparsity-weight=1"};          // where its state begins
  return words;
}

// Each loss by itself, unweighted: in the sum one of little weight could be anything.
void expect_equal_parts(const Trained& alone, const Trained& several) {
  EXPECT(alone.part_names == several.part_names);
  for (size_t step = 0; step < alone.parts.size(); ++step)
    for (size_t i = 0; i < alone.part_names.size(); ++i) {
      const double a = alone.parts[step][i], b = several.parts[step][i];
      INFO(alone.part_names[i], " of step ", step, ": ", a, " ", b);
      EXPECT(std::abs(a - b) < 1e-5 * std::abs(a) + 1e-6);
    }
}

TEST_CASE(
    "ranks: every router's losses, draws and choices are those of the whole batch, and exact sums have its bits") {
  for (const RouterRow& row : router_registry())
    for (const char* task : {"classification", "masked_lm"}) {
      if (row.traits.needs_labels && task != std::string_view("classification")) continue;
      std::vector<const char*> flags = {"--router", row.name, "--task", task, "--batch", "11"};
      const std::vector<std::string> weights = weights_of(row);
      for (const std::string& word : weights) flags.push_back(word.c_str());
      INFO(row.name, " ", task);
      const Options o = options_of(flags);
      const Trained alone = train_alone(o, "softmax-moe", 3), several = train_over(o, "softmax-moe", 3, 3, 1);
      INFO("apart ", apart(alone, several));
      EXPECT(apart(alone, several) < 1e-6);
      expect_equal_parts(alone, several);
      EXPECT(largest_difference(alone.state, several.state) < 1e-5);
      const Trained processes = train_over(o, "softmax-moe", 3, 3, 3);
      EXPECT(processes.losses == several.losses);
      EXPECT(processes.weights == several.weights);
    }
}

TEST_CASE("ranks: every loss of the table is that of the whole batch") {
  const std::string router = plain_router();
  std::vector<std::string> weights;
  for (const OptionRow& weight : further_loss_weights(router_row(router)))
    weights.push_back(fmt::format("--{}=0.1", weight.name));
  for (const char* task : {"classification", "masked_lm"}) {
    std::vector<const char*> flags = {"--router", router.c_str(), "--task", task, "--batch", "11"};
    for (const std::string& word : weights) flags.push_back(word.c_str());
    const Options o = options_of(flags);
    const Trained alone = train_alone(o, "softmax-moe", 3), several = train_over(o, "softmax-moe", 3, 3, 1);
    INFO(task, " apart ", apart(alone, several));
    EXPECT(alone.part_names.size() >= 3 + weights.size());  // the task, balance, energy
    EXPECT(apart(alone, several) < 1e-6);
    expect_equal_parts(alone, several);
  }
}

TEST_CASE(
    "ranks: load losses of more layers than a launch takes, and their gradients, are those of all rows at once") {
  constexpr int64_t kRanks = 3, kLayers = 37, kExperts = 5;  // rank r has r + 2 rows
  const auto rows_of = [](int64_t r) { return r + 2; };
  struct Layers {
    std::vector<Var> gates, losses;
  };
  // Of ranks [first, end), their rows one after another.
  const auto run = [&](Context& context, int64_t first, int64_t end) {
    std::vector<int32_t> lengths;
    for (int64_t r = first; r < end; ++r) lengths.push_back(static_cast<int32_t>(rows_of(r)));
    const Sequences s = make_sequences(context, lengths);
    Layers all;
    std::vector<LayerImportance> importance;
    std::vector<Tensor> experts;
    for (int64_t l = 0; l < kLayers; ++l) {
      std::vector<double> gates;
      std::vector<int32_t> chosen;
      for (int64_t r = first; r < end; ++r)
        for (int64_t i = 0; i < 2 * rows_of(r); ++i) {
          const int64_t n = l * 31 + r * 17 + i;
          gates.push_back(0.1 + static_cast<double>(n * n % 97) / 97);
          chosen.push_back(static_cast<int32_t>(n * 7 % kExperts));
        }
      const auto rows = static_cast<int64_t>(gates.size()) / 2;
      all.gates.push_back(Var::parameter(from_vector(context, gates, {rows, 2})));
      experts.push_back(from_vector(context, chosen, {rows, 2}));
      if (end - first == kRanks) all.losses.push_back(load_losses(all.gates.back(), experts.back(), kExperts, s));
      else importance.push_back({loads_of(all.gates.back(), experts.back(), kExperts, s).importance, &s});
    }
    if (!importance.empty()) all.losses = load_losses_over_ranks(importance);
    Var total;
    for (size_t l = 0; l < kLayers; ++l) {
      const Var term = scale(sum(all.losses[l]), 1 + 0.01 * static_cast<double>(l));
      total = total.defined() ? add(total, term) : term;
    }
    backward(total, full(context, {}, 1.0 / static_cast<double>(importance.empty() ? 1 : kRanks), DType::kFloat64));
    return all;
  };
  Context context(Device::cpu());
  const Layers whole = run(context, 0, kRanks);
  run_ranks(kRanks, [&](std::unique_ptr<Communicator> communicator) {
    const int64_t r = communicator->rank();
    Context own(Device::cpu());
    set_ranks(own, std::move(communicator));
    const Layers part = run(own, r, r + 1);
    int64_t before = 0;
    for (int64_t i = 0; i < r; ++i) before += 2 * rows_of(i);
    for (size_t l = 0; l < kLayers; ++l) {
      EXPECT(largest_difference(values(part.losses[l].value()), values(whole.losses[l].value())) < 1e-12);
      const std::vector<double> expected = values(whole.gates[l].grad()), got = values(part.gates[l].grad());
      EXPECT(got.size() == static_cast<size_t>(2 * rows_of(r)));
      EXPECT(largest_difference(got, {expected.begin() + before, expected.begin() + before + std::ssize(got)}) <
             1e-12);
    }
  });
}

// Batches of texts are cut by tokens, and have room for as many sequences as there could be.
TEST_CASE("losses: a mean over sequences leaves out those that have no rows, whatever is in their place") {
  Context context(Device::cpu());
  Sequences s = make_sequences(context, {2, 3}, 8);
  s.count = 4, s.offsets = from_vector(context, std::vector<int32_t>{0, 2, 5, 5, 5}, {5});
  s.first_rows = from_vector(context, std::vector<int32_t>{0, 2, -1, -1}, {4});
  const Var x = Var::parameter(from_vector(context, std::vector<double>{1, 2, 7, 7}, {4}));
  const Var mean = mean_of_sequences(x, s);
  EXPECT(values(mean.value()) == std::vector<double>{1.5});
  backward(reshape(mean, Shape{}));
  EXPECT(values(x.grad()) == std::vector<double>{0.5, 0.5, 0, 0});
}

TEST_CASE("routers: what EMO draws for a sequence does not depend on the micro-batch that it is in") {
  const auto after_step = [](const char* parts) {
    return train_alone(options_of({"--router", "emo", "--pool-loss", "0", "--balance", "0", "--energy", "0",
                                   "--micro-batches", parts}),
                       "softmax-moe", 1);
  };
  EXPECT(apart(after_step("1"), after_step("2")) < 1e-6);
}

}  // namespace
}  // namespace glia::test
