// More experts than kernels have fixed room for somewhere: a byte's values, a block's threads, Hopper's groups of old.
#include <algorithm>

#include "nn/optimizer.h"
#include "tests/nn/helpers.h"

namespace glia::test {
namespace {

struct Step {
  std::vector<double> losses, weights;
  bool operator==(const Step&) const = default;
};

Step train(Context& context, const ModelConfig& config) {
  Model model(context, config, 11);
  AdamW optimiser(model.parameters(), {});
  Step s;
  for (uint32_t step = 0; step < 2; ++step) {
    context.set_step(step);
    const Batch batch = tiny_batch(context, {6, 3, 9, 12, 1, 14}, config.bert, step);
    model.parameters().clear_gradients();
    const Model::Output out = model.forward(batch, true);
    backward(out.loss);
    optimiser.step();
    StepRoutings routed;
    routed.add(out.routings);
    model.after_step(routed);
    s.losses.push_back(out.loss.value().item());
    const std::vector<int32_t> chosen = out.routings[0].experts.to_vector<int32_t>();
    for (const int32_t e : chosen) EXPECT((e >= -1 && e < config.moe.n_experts));
    // Not all go to the experts that a smaller kernel would know, but where a router's choice is fixed.
    if (!router_row(config.moe.router).traits.untrained)
      EXPECT(*std::max_element(chosen.begin(), chosen.end()) >= 64);
  }
  s.weights = values(model.parameters().values());
  return s;
}

TEST_CASE("many experts: 192 and 256 of them are trained by every router, to the same bits when repeated") {
  Context context(test_device(), 5);
  for (const RouterRow& row : router_registry())
    for (const int64_t experts : {192, 256})
      for (const DType compute : {DType::kFloat32, DType::kBFloat16}) {
        INFO(std::string(row.name), " ", experts, " ", std::string(name(compute)));
        const std::string refused = error_of([&] {
          ParameterSet set;
          make_router(row.name, set, "r", {8, experts, 2});
        });
        if (!refused.empty()) {
          EXPECT((experts == 192 && contains(refused, "a power of two of experts, got 192")));
          continue;
        }
        ModelConfig config = tiny_config(row.name, compute);
        config.moe.n_experts = experts;
        const Step once = train(context, config);
        for (const double loss : once.losses) EXPECT(std::isfinite(loss));
        for (const double w : once.weights) REQUIRE(std::isfinite(w));
        EXPECT(train(context, config) == once);
      }
}

}  // namespace
}  // namespace glia::test
