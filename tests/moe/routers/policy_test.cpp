// Ada-K's policy loss, which is formed after the head from the losses of its rows (moe/model.cpp), against loops.
#include <algorithm>

#include "moe/losses/losses.h"
#include "tests/moe/bench.h"

namespace glia::test {
namespace {

constexpr double kDiscount = 0.5;

ModelConfig policy_config() {
  ModelConfig config = tiny_config("ada-k");
  config.moe.options.set("policy-discount", kDiscount);
  return config;
}

double part(const Model::Output& out, const std::string& name) {
  const auto at = std::ranges::find(out.part_names, name);
  REQUIRE(at != out.part_names.end());
  return values(out.parts)[size_t(at - out.part_names.begin())];
}

// −ln P of each row's label.
std::vector<double> row_losses(const Model::Output& out, const std::vector<int32_t>& labels) {
  const std::vector<double> logits = values(out.logits.value());
  const int64_t classes = out.logits.value().size(1);
  std::vector<double> losses;
  for (size_t b = 0; b < labels.size(); ++b)
    losses.push_back(-std::log(oracle_softmax(&logits[b * size_t(classes)], classes)[size_t(labels[b])]));
  return losses;
}

// Of each row of tokens: the mean loss less its own sequence's; 0 in the tail.
std::vector<double> advantages(const std::vector<double>& losses, const Batch& batch) {
  double mean = 0;
  for (const double loss : losses) mean += loss / static_cast<double>(losses.size());
  std::vector<double> of_tokens;
  for (const int32_t b : batch.sequences.sequence_of.to_vector<int32_t>())
    of_tokens.push_back(b < 0 ? 0 : mean - losses[size_t(b)]);
  return of_tokens;
}

// The mean over layers of −γ^(layers above) · mean over real tokens of A log π.
double policy_oracle(const Model::Output& out, const std::vector<double>& advantage, int64_t real) {
  double sum = 0;
  const size_t layers = out.routings.size();
  for (size_t l = 0; l < layers; ++l) {
    const std::vector<double> log_pi = values(out.routings[l].policy.value());
    double layer = 0;
    for (size_t t = 0; t < log_pi.size(); ++t) layer += advantage[t] * log_pi[t] / static_cast<double>(real);
    sum -= std::pow(kDiscount, static_cast<double>(layers - 1 - l)) * layer / static_cast<double>(layers);
  }
  return sum;
}

TEST_CASE(
    "ada-k: the policy's loss is minus the advantage of the sequence times log π, less for layers farther below") {
  Context context(test_device());
  const ModelConfig config = policy_config();
  const Model model(context, config, 3);
  const Batch batch = tiny_batch(context, {6, 3, 9}, config.bert, 2, 21);
  const Model::Output out = model.forward(batch, true);
  const std::vector<double> advantage = advantages(row_losses(out, batch.labels.to_vector<int32_t>()), batch);
  const double expected = policy_oracle(out, advantage, 18);
  EXPECT(std::abs(expected) > 1e-3);  // else this test tests nothing
  EXPECT(part(out, "policy") == doctest::Approx(expected).epsilon(1e-12));
  // In evaluation nothing is drawn, so nothing is paid.
  const std::vector<std::string> names = model.forward(batch, false).part_names;
  EXPECT(std::ranges::find(names, "policy") == names.end());
}

TEST_CASE("ada-k: a token's number of experts is drawn from π, and log π is that of the number which was drawn") {
  constexpr int32_t kTokens = 6000;
  Bench bench("ada-k", 4, 2, {kTokens});
  std::vector<double> row(kHidden), x;
  for (size_t h = 0; h < row.size(); ++h) row[h] = 0.4 * static_cast<double>(h % 3) - 0.3;
  for (int32_t t = 0; t < kTokens; ++t) x.insert(x.end(), row.begin(), row.end());
  const std::vector<double> wanted = oracle_linear(row, bench.weights("l.moe.router.allocator.weight"),
                                                   bench.weights("l.moe.router.allocator.bias")),
                            p = oracle_softmax(wanted.data(), 4);
  const Routing r =
      bench.run(from_vector<double>(bench.context, x, {kTokens, kHidden}, DType::kFloat64), false, true).routing;
  const auto experts = r.experts.to_vector<int32_t>();
  const std::vector<double> log_pi = values(r.policy.value());
  std::vector<double> drawn(4);
  double error = 0;
  for (size_t t = 0; t < kTokens; ++t) {
    const auto n =
        static_cast<size_t>(std::count_if(&experts[t * 4], &experts[t * 4] + 4, [](int e) { return e >= 0; }));
    REQUIRE(n >= 1);
    drawn[n - 1] += 1.0 / kTokens;
    error = std::max(error, std::abs(log_pi[t] - std::log(p[n - 1])));
  }
  EXPECT(error < 1e-9);
  EXPECT(*std::ranges::max_element(p) > 0.35);  // else a draw that ignores π would do as well
  for (size_t n = 0; n < 4; ++n) {
    INFO(n, " more experts than one");
    EXPECT(std::abs(drawn[n] - p[n]) < 5 * std::sqrt(p[n] * (1 - p[n]) / kTokens));
  }
}

TEST_CASE("ada-k: the gradient is that of the policy's loss with the advantage held fast") {
  Context context(test_device());
  const ModelConfig config = policy_config();
  Model model(context, config, 3);
  const Batch batch = tiny_batch(context, {6, 3, 9}, config.bert, 2);
  const Model::Output base = model.forward(batch, true);
  const std::vector<double> fixed = advantages(row_losses(base, batch.labels.to_vector<int32_t>()), batch);
  backward(base.loss);
  model.parameters().complete_gradients();
  // The loss as it is, but for the advantage, which stays what it was.
  const auto loss = [&] {
    const Model::Output out = model.forward(batch, true);
    return values(out.loss.value())[0] - part(out, "policy") + policy_oracle(out, fixed, 18);
  };
  for (const Parameter& p : model.parameters().all()) {
    if (p.name.find("allocator.weight") == std::string::npos) continue;
    INFO(p.name);
    const std::vector<double> gradient = values(model.parameters().gradient(p)), before = values(p.var.value());
    double largest_seen = 0;
    for (size_t i = 0; i < before.size(); i += 5) {
      const auto at = [&](double shift) {
        std::vector<double> moved = before;
        moved[i] += shift;
        Tensor(p.var.value()).copy_from(from_vector<double>(context, moved, p.shape, DType::kFloat64));
        return loss();
      };
      constexpr double kStep = 1e-6;  // too small to change a draw
      const double measured = (at(kStep) - at(-kStep)) / (2 * kStep);
      at(0);
      EXPECT(measured == doctest::Approx(gradient[i]).epsilon(1e-5).scale(1e-2));
      largest_seen = std::max(largest_seen, std::abs(gradient[i]));
    }
    EXPECT(largest_seen > 1e-5);
  }
}

}  // namespace
}  // namespace glia::test
