// What of a batch reaches a model: borders of sequences, from the split through plan and buffer to the pass.
#include "experiments/training/feed/batch_buffer.h"

#include "tests/nn/helpers.h"

namespace glia::test {
namespace {

// Keeps the borders that its pass had.
struct BorderHead : Head {
  mutable std::vector<int32_t> borders;
  Result forward(const Var&, const Tensor&, const Pass& pass) const override {
    borders = pass.borders.defined() ? pass.borders.to_vector<int32_t>() : std::vector<int32_t>{-1};
    return {};
  }
};

TEST_CASE("batch buffer: a sequence's border comes from its row to whoever reads the pass") {
  TokenSplit rows;
  for (int32_t row = 0; row < 7; ++row) {
    rows.ids.insert(rows.ids.end(), static_cast<size_t>(row + 2), row);
    rows.offsets.push_back(static_cast<int64_t>(rows.ids.size()));
    rows.labels.push_back(row % 3);
    rows.borders.push_back(row / 2 + 1);
  }
  TokenSplit picked;
  for (const int64_t row : {6, 1, 4}) picked.append(rows, row);
  EXPECT(picked.borders == std::vector<int32_t>{4, 1, 3});

  Context context(test_device());
  ModelConfig config = tiny_config(plain_router());
  config.head = [](ParameterSet&, const BertConfig&, const Embeddings&) -> std::unique_ptr<Head> {
    return std::make_unique<BorderHead>();
  };
  const Model model(context, config, 3);
  for (const bool has : {true, false}) {
    TokenSplit split = rows;
    if (!has) split.borders.clear();
    BatchOptions options;
    options.batch_size = 3, options.seed = 5;
    const BatchPlan plan(split, options);
    BatchBuffer buffer(context, 32, 3, 8, false, 0, {}, false, has);
    std::vector<int32_t> slot(static_cast<size_t>(buffer.ints()));
    for (int64_t i = 0; i < plan.batches(); ++i) {
      BatchView view = buffer.view(slot.data());
      plan.fill(i, view);
      buffer.upload(slot.data(), view, 32);
      context.synchronize();
      model.forward(buffer.batch(32, 3), false);
      std::vector<int32_t> wanted;
      for (const int32_t row : plan.rows(i)) wanted.push_back(rows.borders[static_cast<size_t>(row)]);
      if (!has) wanted = {-1};
      EXPECT(dynamic_cast<const BorderHead&>(model.head()).borders == wanted);
    }
  }
}

}  // namespace
}  // namespace glia::test
