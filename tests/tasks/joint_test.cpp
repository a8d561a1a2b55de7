// Words and topics at once: the loss is the two heads' own, weighed; what has no topic takes no part in it.
#include "nn/heads/joint_head.h"

#include <map>

#include "experiments/tasks/task.h"
#include "tests/nn/helpers.h"

namespace glia::test {
namespace {

// Four sequences; the second has no topic, the last is not read, as if it were empty. Rows that are read: first rows, then masked words.
const std::vector<int32_t> kLengths = {6, 3, 9, 2};
const std::vector<int32_t> kFirst = {0, 6, 9, -1}, kWords = {2, 4, 7, 11, 16, -1}, kAsked = {5, 9, 38, 1, 17, -1};

Batch batch_of(Context& context, const BertConfig& bert, const std::vector<int32_t>& read,
               const std::vector<int32_t>& targets) {
  Batch b = tiny_batch(context, kLengths, bert);
  const auto rows = static_cast<int64_t>(read.size());
  b.read = from_vector(context, read, {rows});
  b.targets = from_vector(context, targets, {rows});
  return b;
}

std::vector<int32_t> joined(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

struct Learnt {
  double loss;
  std::map<std::string, std::vector<double>> gradients;
  std::vector<double> row_losses, sums;
};

// A parameter's first numbers follow from its name, so that models with other heads agree in what they share.
Learnt learnt(const MakeHead& head, const std::vector<int32_t>& read, const std::vector<int32_t>& targets) {
  Context context(test_device(), 1);
  ModelConfig config = tiny_config("none");
  config.head = head;
  Model model(context, config, 3);
  const Model::Output out = model.forward(batch_of(context, config.bert, read, targets), true);
  backward(out.loss);
  model.parameters().complete_gradients();
  Learnt l{out.loss.value().item(), {}, {}, {}};
  for (const Parameter& p : model.parameters().all()) l.gradients[p.name] = values(model.parameters().gradient(p));
  if (out.row_losses.defined()) l.row_losses = values(out.row_losses), l.sums = values(out.sums);
  return l;
}

TEST_CASE("joint: loss and gradients are (W words + topics) / (W + 1) of the heads that know one of them") {
  const double w = 20;
  const Learnt words = learnt(make_masked_lm_head, kWords, kAsked),
               topics = learnt(make_classification_head, {0, 9}, {2, 1}),
               both = learnt(make_joint_head(w), joined(kFirst, kWords), joined({2, -1, 1, -1}, kAsked));
  EXPECT(std::abs(both.loss - (w * words.loss + topics.loss) / (w + 1)) < 1e-13);
  for (const auto& [name, gradient] : both.gradients) {
    INFO(name);
    std::vector<double> wanted(gradient.size(), 0.0);
    for (const auto& [part, weight] : {std::pair{&words, w}, {&topics, 1.0}})
      if (const auto found = part->gradients.find(name); found != part->gradients.end())
        for (size_t i = 0; i < wanted.size(); ++i) wanted[i] += weight * found->second[i] / (w + 1);
    EXPECT(largest_difference(gradient, wanted) < 1e-13);
    if (name.starts_with("classifier") || name.starts_with("pooler") || name.starts_with("mlm"))
      EXPECT(largest(gradient) > 1e-5);
  }
  REQUIRE(both.row_losses.size() == kFirst.size() + kWords.size());
  const std::vector<double>& r = both.row_losses;
  EXPECT(r[1] == 0);
  EXPECT(r[3] == 0);
  EXPECT(std::abs((r[0] + r[2]) / 2 - topics.loss) < 1e-13);
  for (size_t i = 0; i < kWords.size(); ++i) EXPECT(std::abs(r[4 + i] - words.row_losses[i]) < 1e-13);
  REQUIRE(both.sums.size() == 6);
  for (size_t i = 0; i < 3; ++i) EXPECT(std::abs(both.sums[i] - words.sums[i]) < 1e-12);
  EXPECT(std::abs(both.sums[3] - 2 * topics.loss) < 1e-12);
  EXPECT(both.sums[4] == 2);
}

TEST_CASE("joint: a batch without topics learns from its words alone") {
  const double w = 3;
  const Learnt words = learnt(make_masked_lm_head, kWords, kAsked),
               both = learnt(make_joint_head(w), joined(kFirst, kWords), joined({-1, -1, -1, -1}, kAsked));
  EXPECT(std::abs(both.loss - w * words.loss / (w + 1)) < 1e-13);
  EXPECT(largest(both.gradients.at("classifier.weight")) == 0);
  EXPECT(largest(both.gradients.at("pooler.weight")) == 0);
  EXPECT(both.sums[4] == 0);
}

TEST_CASE(
    "joint: the meter counts words and topics over all batches, and is silent of topics where none was asked") {
  for (const bool asked : {true, false}) {
    Context context(test_device(), 1);
    ModelConfig config = tiny_config("none", DType::kFloat32);
    config.head = make_joint_head(20);
    const Model model(context, config, 3);
    const NoGrad no_grad(context);
    const std::unique_ptr<TaskMeter> meter = make_joint_meter(context, 2);
    std::vector<double> sum(6, 0.0);
    for (const int32_t topic : {2, 0}) {
      const Batch batch = batch_of(context, config.bert, joined(kFirst, kWords),
                                   joined({asked ? topic : -1, -1, asked ? 1 : -1, -1}, kAsked));
      const Model::Output out = model.forward(batch, false);
      meter->add(out, batch);
      const std::vector<double> sums = values(out.sums);
      for (size_t i = 0; i < 6; ++i) sum[i] += sums[i];
    }
    const results::NamedValues values = meter->read().values;
    EXPECT(std::abs(values.get("loss") - sum[0] / 10) < 1e-6);
    EXPECT(values.get("accuracy") == sum[2] / 10);
    EXPECT(values.contains("task_accuracy") == asked);
    if (!asked) continue;
    EXPECT(values.get("task_accuracy") == sum[5] / 4);
    EXPECT(std::abs(values.get("task_loss") - sum[3] / 4) < 1e-6);
  }
}

TEST_CASE("joint: a weight of nothing and rows that do not fit are errors") {
  const auto error = [](double w, const std::vector<int32_t>& read) {
    return error_of([&] { learnt(make_joint_head(w), read, read); });
  };
  EXPECT(contains(error(0, {0, 6}), "wants a weight of the words above 0, got 0"));
  EXPECT(contains(error(1, kFirst), "wants the first rows of 4 sequences, words behind them"));
}

}  // namespace
}  // namespace glia::test
