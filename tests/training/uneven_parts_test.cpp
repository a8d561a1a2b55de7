// Ranks whose parts have equal numbers of tokens and unequal ones of sequences: what fills the fewer up counts for nothing.
#include <algorithm>
#include <set>

#include "experiments/training/feed/batch_part.h"
#include "nn/head.h"
#include "tests/training/over_ranks.h"

namespace glia::test {
namespace {

// Every fifth sequence as long as it was, the others of three tokens: ten of them are cut into five and five no more.
Dataset uneven(const Options& o) {
  Dataset data = load_data(o);
  TokenSplit cut;
  for (int64_t row = 0; row < data.train.size(); ++row) {
    const auto begin = data.train.ids.begin() + data.train.offsets[static_cast<size_t>(row)];
    const int64_t length = data.train.length(row), kept = row % 5 == 0 ? length : std::min<int64_t>(3, length);
    cut.ids.insert(cut.ids.end(), begin, begin + kept);
    cut.offsets.push_back(static_cast<int64_t>(cut.ids.size()));
    cut.labels.push_back(data.train.labels[static_cast<size_t>(row)]);
  }
  data.train = std::move(cut);
  return data;
}

void expect_equal(const Options& o, const char* config, int64_t steps, double most_apart = 1e-6) {
  const Dataset data = uneven(o);
  Context context(Device::cpu(), 42);
  const Trained alone = train_on(context, o, config, data, steps);
  EXPECT(std::isfinite(alone.losses.back()));
  for (const int ranks : {2, 3, 4}) {
    const Trained several = train_over(o, config, data, steps, ranks, 1);
    INFO(config, " ranks ", ranks, " apart ", apart(alone, several));
    EXPECT(apart(alone, several) < most_apart);
    for (size_t step = 0; step < alone.parts.size(); ++step)
      for (size_t i = 0; i < alone.part_names.size(); ++i) {
        const double a = alone.parts[step][i], b = several.parts[step][i];
        INFO(alone.part_names[i], " of step ", step, ": ", a, " ", b);
        EXPECT(std::abs(a - b) < 1e-5 * std::abs(a) + 1e-6);
      }
    EXPECT(largest_difference(alone.state, several.state) < 1e-5);
  }
}

TEST_CASE("uneven parts: the step is that of one rank, whoever has fewer sequences") {
  for (const char* padding : {"packed", "padded"})
    for (const char* config : {"dense", "astrocyte-hierarchical"}) {
      INFO(padding);
      expect_equal(options_of({"--padding", padding}), config, 6);
    }
  expect_equal(options_of({"--batch", "14"}), "astrocyte-meanpool", 6);
  expect_equal(options_of({"--micro-batches", "2", "--batch", "22"}), "dense", 6);
  expect_equal(options_of({"--shard-optimiser"}), "softmax-moe", 6);
  Options all_rows = options_of({});
  all_rows.last_layer_cls = false;
  expect_equal(all_rows, "softmax-moe", 6);
}

TEST_CASE("uneven parts: encoders, mixtures and sources of context that read whole sequences") {
  const std::vector<std::vector<const char*>> all = {
      {"--encoder", "bag", "--lr=0.01"},
      {"--mixture", "merged"},
      {"--mixture", "soft"},
      {"--shared-experts", "1"},
      {"--router", "context", "--context-source", "mean"},
      {"--router", "context", "--context-source", "max", "--context-mode", "gate"},
      {"--router", "context", "--context-source", "query", "--context-mlp=on"},
      {"--router", "thor", "--task-loss=1", "--task-balance=1"},
      {"--router", "pmoe", "--skill-loss=1"},
      {"--router", "ada-k", "--fewer-experts=1"},
      {"--router", "emo", "--pool-loss=1"},
      {"--router", "glider"},
      {"--router", "expert-choice"},
      {"--router", "deepseek-v3", "--sequence-loss=1"},
  };
  for (const std::vector<const char*>& flags : all) {
    INFO(std::string(flags[0]), " ", std::string(flags[1]));
    const bool bag = flags[1] == std::string_view("bag");
    expect_equal(options_of(flags), bag ? "dense" : "softmax-moe", 4);
  }
}

TEST_CASE("uneven parts: a sequence of no rows is no zero to be divided by, where words are masked too") {
  for (const char* source : {"mean", "max", "query"}) {
    INFO(std::string(source));
    expect_equal(options_of({"--router", "context", "--context-source", source, "--task", "masked_lm"}),
                 "softmax-moe", 3);
  }
}

// Tells how many sequences a pass has room for.
struct CountingHead : Head {
  std::unique_ptr<Head> inner;
  std::vector<int64_t>* counts;
  CountingHead(std::unique_ptr<Head> head, std::vector<int64_t>* to) : inner(std::move(head)), counts(to) {}
  Result forward(const Var& x, const Tensor& targets, const Pass& pass) const override {
    counts->push_back(pass.sequences.count);
    return inner->forward(x, targets, pass);
  }
};

TEST_CASE(
    "uneven parts: all ranks launch for the sequences of the largest part, not for those of the whole batch") {
  for (const char* task : {"classification", "masked_lm"}) {
    const bool masked = task == std::string_view("masked_lm");
    const Options o = options_of({"--task", task, "--batch", masked ? "300" : "60", "--synthetic-rows=700"});
    const Dataset data = load_data(o);
    std::vector<int64_t> counts[2];
    run_ranks(2, [&](std::unique_ptr<Communicator> communicator) {
      std::vector<int64_t>& mine = counts[communicator->rank()];
      Context context(Device::cpu(), 42);
      set_ranks(context, std::move(communicator));
      TrainingPlan plan = training_plan(o, data, run_model(o, configuration("dense")), 42);
      plan.model.head = [&, make = plan.model.head](ParameterSet& set, const BertConfig& config,
                                                    const Embeddings& words) -> std::unique_ptr<Head> {
        return std::make_unique<CountingHead>(make(set, config, words), &mine);
      };
      Trainer trainer(context, plan, o, run_model(o, configuration("dense")), 42, data.class_names);
      for (int i = 0; i < 2; ++i) trainer.step();
    });
    INFO(task, " ", counts[0][0]);
    EXPECT(counts[0].size() == 2);
    EXPECT(counts[0] == counts[1]);
    for (const int64_t count : counts[0]) {
      EXPECT(count >= o.batch / 2);
      EXPECT(count <= (masked ? 192 : 40));
      EXPECT(count % 8 == 0);
    }
  }
}

TEST_CASE(
    "uneven parts: a rank orders its own words, and the distinct ones of all in the places where they are gathered") {
  const Options o = options_of({});
  const Dataset data = load_data(o);
  Context context(Device::cpu(), 42);
  const TrainingPlan plan = training_plan(o, data, run_model(o, configuration("dense")), 42);
  constexpr int kRanks = 3, kBatches = 6;
  std::vector<std::vector<int32_t>> slots(kRanks);
  std::vector<BatchView> views;
  std::vector<FillBatch> fills;
  for (int r = 0; r < kRanks; ++r) {
    const BatchFeed feed = part_of(plan.feed, r, kRanks, o.bucket, false, true);
    const BatchBuffer buffer(context, feed.tokens, feed.sequences, feed.longest, feed.padded, feed.vocabulary,
                             feed.masking, true, feed.borders, feed.order_parts);
    slots[static_cast<size_t>(r)].resize(static_cast<size_t>(buffer.ints()));
    views.push_back(buffer.view(slots[static_cast<size_t>(r)].data()));
    fills.push_back(feed.from(0));
  }
  int64_t most = 0;
  for (int batch = 0; batch < kBatches; ++batch) {
    std::vector<std::vector<int32_t>> words;  // distinct, ascending
    for (int r = 0; r < kRanks; ++r) {
      BatchView& v = views[static_cast<size_t>(r)];
      REQUIRE(fills[static_cast<size_t>(r)](v));
      const std::set<int32_t> distinct(v.ids, v.ids + v.tokens);
      words.emplace_back(distinct.begin(), distinct.end());
      most = std::max(most, static_cast<int64_t>(words.back().size()));
    }
    const int64_t room = round_up(most, kWordBucket);
    for (int r = 0; r < kRanks; ++r) {
      const BatchView& v = views[static_cast<size_t>(r)];
      const std::vector<int32_t>& mine = words[static_cast<size_t>(r)];
      EXPECT(v.part.most_words == most);  // of this batch or an earlier one, the same on all ranks
      // Row i of the own sums is the i-th word's: every token of it, once.
      std::vector<int> seen(static_cast<size_t>(v.tokens), 0);
      for (int32_t i = 0; i < *v.own_order.count; ++i)
        for (int32_t e = v.own_order.pieces[2 * i + 1]; e < v.own_order.pieces[2 * i + 3]; ++e) {
          const int32_t token = v.own_order.entries[e];
          EXPECT(v.ids[token] == mine[static_cast<size_t>(v.own_order.pieces[2 * i])]);
          ++seen[static_cast<size_t>(token)];
        }
      EXPECT(std::ranges::all_of(seen, [](int n) { return n == 1; }));
      // A word's row of the table is the sum of one row of each rank that has it.
      size_t rows = 0;
      for (int32_t i = 0; i < *v.order.count; ++i)
        for (int32_t e = v.order.pieces[2 * i + 1]; e < v.order.pieces[2 * i + 3]; ++e, ++rows) {
          const int64_t place = v.order.entries[e];
          EXPECT(words[static_cast<size_t>(place / room)][static_cast<size_t>(place % room)] ==
                 v.order.pieces[2 * i]);
        }
      EXPECT(rows == words[0].size() + words[1].size() + words[2].size());
    }
  }
}

}  // namespace
}  // namespace glia::test
