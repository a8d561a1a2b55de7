// Every router's own losses, draws and choices over the ranks: those of the whole batch.
#include "moe/losses/losses.h"
#include "moe/router.h"
#include "tests/training/over_ranks.h"

namespace glia::test {
namespace {

// Where a default is too small for a wrong loss to be seen in the sum of all.
std::vector<const char*> weights_of(std::string_view router) {
  if (router == "dselect-k") return {"--selector-entropy", "1e-3"};
  if (router == "deepseek-v3") return {"--sequence-loss", "1"};
  if (router == "remoe") return {"--sparsity-weight", "1"};
  if (router == "noisy-top-k") return {"--load-loss", "1", "--importance-loss", "1"};
  if (router == "thor") return {"--task-loss", "1", "--task-balance", "1"};
  return {};
}

TEST_CASE(
    "ranks: every router's losses, draws and choices are those of the whole batch, and exact sums have its bits") {
  for (const RouterRow& row : router_registry())
    for (const char* task : {"classification", "masked_lm"}) {
      if (row.traits.needs_labels && task != std::string_view("classification")) continue;
      std::vector<const char*> flags = {"--router", row.name, "--task", task, "--batch", "11"};
      for (const char* word : weights_of(row.name)) flags.push_back(word);
      INFO(row.name, " ", task);
      const Options o = options_of(flags);
      const Trained alone = train_alone(o, "softmax-moe", 3), several = train_over(o, "softmax-moe", 3, 3, 1);
      INFO("apart ", apart(alone, several));
      EXPECT(apart(alone, several) < 1e-6);
      const Trained processes = train_over(o, "softmax-moe", 3, 3, 3);
      EXPECT(processes.losses == several.losses);
      EXPECT(processes.weights == several.weights);
    }
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
