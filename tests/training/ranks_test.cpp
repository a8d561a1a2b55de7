// A run over ranks: its parts are the whole batch, exact sums have the bits of any number of processes, fast ones differ by
// rounding; and what the launcher's processes must agree on. Processes are threads here, real ones in mpi_test.cpp.
#include <algorithm>
#include <filesystem>

#include "experiments/studies/study.h"
#include "experiments/training/feed/batch_part.h"
#include "experiments/training/schedule.h"
#include "tests/temporary_folder.h"
#include "tests/training/over_ranks.h"
#include "tests/training/wrapped_ranks.h"

namespace glia::test {
namespace {

TEST_CASE("ranks: exact sums have the same bits in 1, 2, 3 and 4 processes, whatever the rows and the task") {
  struct Case {
    const char *config, *padding, *task;
  };
  for (const Case& c : {Case{"dense", "packed", "classification"},
                        {"astrocyte-hierarchical", "packed", "classification"},
                        {"astrocyte-hierarchical", "padded", "classification"},
                        {"softmax-moe", "packed", "masked_lm"}}) {
    const Options o = options_of({"--padding", c.padding, "--task", c.task});
    const Trained one = train_over(o, c.config, 3, 4, 1);
    for (const int processes : {2, 3, 4}) {
      INFO(c.config, " ", c.padding, " ", c.task, " ", processes);
      const Trained several = train_over(o, c.config, 3, 4, processes);
      EXPECT(several.losses == one.losses);
      EXPECT(several.weights == one.weights);
      EXPECT(several.evaluation == one.evaluation);
    }
    CHECK(std::isfinite(one.losses.back()), "{} {} {}: the loss is {}", c.config, c.padding, c.task,
          one.losses.back());
  }
}

TEST_CASE("ranks: the step of 1, 2 and 3 ranks is the same but for rounding, dropout and balance included") {
  for (const char* config : {"dense", "astrocyte-hierarchical"})
    for (const char* task : {"classification", "masked_lm"}) {
      const Options o = options_of({"--task", task});
      const Trained alone = train_alone(o, config, 20);
      for (const int ranks : {2, 3}) {
        const Trained several = train_over(o, config, 20, ranks, 1);
        INFO(config, " ", task, " ", ranks, " apart ", apart(alone, several));
        EXPECT(apart(alone, several) < 1e-6);
        EXPECT(std::abs(alone.evaluation[1] - several.evaluation[1]) < 1e-5 * alone.evaluation[1]);
      }
    }
}

TEST_CASE(
    "ranks: layers whose gradients are reduced during backward have the bits of those that wait for its end") {
  const Options o = options_of({"--precision", "bfloat16", "--gradients", "bfloat16"});
  const Dataset data = load_data(o);
  for (const char* config : {"dense", "astrocyte-hierarchical"}) {
    std::vector<std::vector<double>> weights(4);
    run_ranks(2, [&](std::unique_ptr<Communicator> communicator) {
      const auto rank = static_cast<size_t>(communicator->rank());
      Context context(Device::cpu(), 42);
      set_ranks(context, std::move(communicator));
      weights[rank] = train_on(context, o, config, data, 3).weights;
    });
    run_ranks(2, [&](std::unique_ptr<Communicator> communicator) {
      const auto rank = static_cast<size_t>(communicator->rank());
      Context context(Device::cpu(), 42);
      set_ranks(context, std::make_unique<Plain>(std::move(communicator)));
      weights[2 + rank] = train_on(context, o, config, data, 3).weights;
    });
    for (const std::vector<double>& w : weights) EXPECT(w == weights[0]);
  }
}

// Writes down what is asked: a for a sum beside backward, w for rows or weights beside what follows, j for the wait for those, s for any other sum, g for rows of all ranks,
// brackets for a group.
class Listening : public Beside {
 public:
  Listening(std::unique_ptr<Communicator> inner, std::string& asked) : Beside(std::move(inner)), asked_(asked) {}
  void all_reduce(void* data, int64_t n, DType dtype, Reduction r) override {
    asked_ += 's';
    Plain::all_reduce(data, n, dtype, r);
  }
  void all_gather(const void* from, void* to, int64_t n, DType dtype) override {
    asked_ += 'g';
    Plain::all_gather(from, to, n, dtype);
  }
  void all_reduce_aside(void* data, int64_t n, DType dtype) override {
    asked_ += 'a';
    Beside::all_reduce_aside(data, n, dtype);
  }
  void reduce_scatter_aside(void* data, int64_t n, DType dtype) override {
    asked_ += 'a';
    Beside::reduce_scatter_aside(data, n, dtype);
  }
  void all_gather_aside(void* data, int64_t n, DType dtype) override {
    asked_ += 'w';
    Beside::all_gather_aside(data, n, dtype);
  }
  void join_aside() override {
    asked_ += 'j';
    Beside::join_aside();
  }
  void begin_group() override { asked_ += '('; }
  void end_group() override { asked_ += ')'; }
  void abandon_group() noexcept override { asked_ += '!'; }

 private:
  std::string& asked_;
};

TEST_CASE("ranks: no sum waits in line behind the gradients of a layer that backward has left") {
  for (const char* config : {"dense", "softmax-moe-energy", "astrocyte", "astrocyte-hierarchical"}) {
    const Options o = options_of({"--precision", "bfloat16", "--gradients", "bfloat16", "--z-loss", "0.001"});
    const Dataset data = load_data(o);
    std::string asked[2];
    run_ranks(2, [&](std::unique_ptr<Communicator> communicator) {
      std::string& mine = asked[communicator->rank()];
      Context context(Device::cpu(), 42);
      set_ranks(context, std::make_unique<Listening>(std::move(communicator), mine));
      Trainer trainer(context, data, o, run_model(o, configuration(config)), 42);
      trainer.step();
      mine.clear();
      trainer.step();
    });
    INFO(std::string(config), ": ", asked[0]);
    EXPECT(asked[0] == asked[1]);
    // Of two layers and what stands before the first, and nothing between, then the words; all else is one group.
    EXPECT(contains(asked[0], "aaawj(s"));
    EXPECT(std::ranges::count(asked[0], 'a') == 3);
    EXPECT(std::ranges::count(asked[0], 'w') == 1);
    EXPECT(std::ranges::count(asked[0], 'g') == 0);
    EXPECT(std::ranges::count(asked[0], '(') == std::ranges::count(asked[0], ')'));
    EXPECT(asked[0].size() < 22);
  }
}

// On a GPU each is a kernel or more of two microseconds, one behind the other, whatever little it computes.
TEST_CASE("ranks: a step of one of two asks for hardly more ops than that of one alone") {
  for (const char* config : {"dense", "softmax-moe-energy", "astrocyte-hierarchical"}) {
    const Options o =
        options_of({"--precision", "bfloat16", "--gradients", "bfloat16", "--layers", "3", "--max-steps", "3"});
    const Dataset data = load_data(o);
    int64_t asked[2] = {};
    for (const int ranks : {1, 2})
      run_ranks(ranks, [&](std::unique_ptr<Communicator> communicator) {
        const bool first = communicator->rank() == 0;
        Context context(Device::cpu(), 42);
        set_ranks(context, std::move(communicator));
        Trainer trainer(context, data, o, run_model(o, configuration(config)), 42);
        trainer.step();
        context.profiler.enabled = true;
        trainer.step();
        for (const auto& [op, entry] : context.profiler.report(context.backend()))
          if (first) asked[ranks - 1] += entry.calls;
      });
    INFO(std::string(config), ": ", asked[0], " and ", asked[1]);
    EXPECT(asked[0] > 50);
    // All layers' sums side by side, the losses of them, and their gradient; and the sums of this rank's words.
    EXPECT(asked[1] <= asked[0] + 4);
  }
}

// What the ranks tell one another of a step, in one call for each kind, is what one rank had in as many micro-batches.
TEST_CASE("ranks: statistics of a step travel together, whatever they are, and are those of micro-batches") {
  constexpr int kRanks = 3;
  const auto of_rank = [](Context& context, double r) {
    std::vector<Routing> layers(2);
    for (const double l : {0.0, 1.0}) {
      const auto numbers = [&](std::vector<double> v, DType t) {
        const auto n = static_cast<int64_t>(v.size());
        return from_vector(context, v, {n}, t);
      };
      layers[l > 0].statistics = {
          {"sum", numbers({r, 10 + l, -r}, DType::kFloat32), StatisticReduction::kSum},
          {"more", numbers({r * l}, DType::kFloat32), StatisticReduction::kSum},
          {"mean", numbers({r + l, 1, 2, 3, 4, 5, 6, 7, r}, DType::kFloat64), StatisticReduction::kMean},
          {"max", numbers({-r, r - l}, DType::kFloat32), StatisticReduction::kMax},
          {"each", numbers({r, l}, DType::kFloat32).reshape({1, 2}), StatisticReduction::kEach}};
    }
    return layers;
  };
  Context one(Device::cpu(), 42);
  StepRoutings expected;
  for (int r = 0; r < kRanks; ++r) expected.add(of_rank(one, r));
  run_ranks(kRanks, [&](std::unique_ptr<Communicator> communicator) {
    std::string asked;
    Context context(Device::cpu(), 42);
    set_ranks(context, std::make_unique<Listening>(std::move(communicator), asked));
    Communicator& ranks = context.communicator();
    const std::vector<Routing> mine = of_rank(context, ranks.rank());
    StepRoutings step;
    step.add(mine);
    together(ranks, [&] { step.reduce(ranks); });
    EXPECT(asked == "(sssg)");  // sums of two types, the largest, and what is kept value by value
    for (size_t l = 0; l < 2; ++l) {
      const StepStatistics &a = step.layers()[l], &b = expected.layers()[l];
      for (const char* name : {"sum", "more", "mean", "max"}) {
        INFO(std::string(name), " of layer ", l);
        EXPECT(values(a[name]) == values(b[name]));
      }
      REQUIRE(a.each("each").size() == kRanks);
      for (size_t r = 0; r < kRanks; ++r) {
        EXPECT(a.each("each")[r].shape() == (Shape{1, 2}));
        EXPECT(values(a.each("each")[r]) == values(b.each("each")[r]));
      }
      EXPECT(values(mine[l].statistics[0].value)[0] == ranks.rank());  // what a router holds is left alone
    }
  });
}

TEST_CASE("ranks: a group in which a call fails is given up, and the next one is whole") {
  run_ranks(2, [&](std::unique_ptr<Communicator> communicator) {
    std::string asked;
    Context context(Device::cpu(), 42);
    set_ranks(context, std::make_unique<Listening>(std::move(communicator), asked));
    EXPECT(error_of([&] { together(context.communicator(), [] { throw Error("no memory"); }); }) == "no memory");
    together(context.communicator(), [] {});
    EXPECT(asked == "(!()");
  });
}

TEST_CASE("ranks: bfloat16 gradients of a piece lie side by side, and no piece's with another's") {
  const Options o = options_of({"--precision", "bfloat16", "--gradients", "bfloat16"});
  const Dataset data = load_data(o);
  Context context(Device::cpu(), 42);
  Trainer trainer(context, data, o, run_model(o, configuration("softmax-moe")), 42);
  const ParameterSet& parameters = trainer.model().parameters();
  EXPECT(low_range_of_piece(0, parameters).end == 0);  // nothing has a gradient yet
  trainer.step();
  std::vector<ElementRange> pieces;
  for (const int piece : {0, 1, 2}) pieces.push_back(low_range_of_piece(piece, parameters));
  int64_t size = 0;
  for (const ElementRange& piece : pieces) {
    EXPECT(piece.begin < piece.end);
    size += piece.end - piece.begin;
  }
  for (size_t i = 1; i < pieces.size(); ++i) EXPECT(pieces[i - 1].end <= pieces[i].begin);
  EXPECT(pieces[0].end - pieces[0].begin < pieces[1].end - pieces[1].begin);
  EXPECT(low_range_of_piece(3, parameters).end == 0);  // there is none
  EXPECT(size == parameters.low_size());               // between them they have all, the head's too
}

// Every batch of `count` of them, whole.
std::vector<std::vector<int32_t>> ids_of(const BatchFeed& feed, int count,
                                         std::vector<BatchView>* views = nullptr) {
  std::vector<std::vector<int32_t>> all;
  const FillBatch fill = feed.from(0);
  Context context(Device::cpu());
  BatchBuffer buffer(context, feed.tokens, feed.sequences, feed.longest, feed.padded, feed.vocabulary, feed.masking,
                     true, feed.borders);
  for (int i = 0; i < count; ++i) {
    std::vector<int32_t> slot(static_cast<size_t>(buffer.ints()));
    BatchView view = buffer.view(slot.data());
    REQUIRE(fill(view));
    all.emplace_back(view.ids, view.ids + view.tokens);
    if (views) views->push_back(view);
  }
  return all;
}

TEST_CASE(
    "ranks: word rows that wait are those that do not, where ranks exchange the gradients of the words that they have") {
  for (const char* padding : {"packed", "padded"}) {
    Options o = options_of({"--padding", padding});
    const Trained waiting = train_over(o, "dense", 4, 3, 1);
    o.lazy_embedding = false;
    const Trained all = train_over(o, "dense", 4, 3, 1);
    EXPECT(waiting.weights == all.weights);  // a row's gradient is the sum of the ranks' sums either way
  }
}

TEST_CASE("ranks: the parts of a batch are the batch, in order, and know what precedes them") {
  for (const char* task : {"classification", "masked_lm"})
    for (const char* padding : {"packed", "padded"}) {
      const Options o = options_of({"--task", task, "--padding", padding});
      const Dataset data = load_data(o);
      const TrainingPlan plan = training_plan(o, data, run_model(o, configuration("dense")), 42);
      const auto whole = ids_of(plan.feed, 5);
      for (const int ranks : {2, 3, 7, 10}) {
        INFO(task, " ", padding, " ", ranks);
        std::vector<std::vector<int32_t>> joined(5);
        int64_t most = 0, read = 0;
        for (int r = 0; r < ranks; ++r) {
          std::vector<BatchView> views;
          const auto parts = ids_of(part_of(plan.feed, r, ranks, o.bucket), 5, &views);
          for (size_t i = 0; i < 5; ++i) {
            EXPECT(views[i].part.tokens_before == static_cast<int64_t>(joined[i].size()));
            EXPECT(views[i].part.all_tokens == static_cast<int64_t>(whole[i].size()));
            joined[i].insert(joined[i].end(), parts[i].begin(), parts[i].end());
            EXPECT(views[i].tokens <= views[i].part.most_tokens);
          }
          most = std::max(most, views[0].tokens);
          EXPECT(views[0].part.read_before == read);
          read += views[0].read ? views[0].read_rows : views[0].sequences;
          if (r + 1 == ranks) {
            EXPECT(views[0].part.most_tokens == most);
            EXPECT(views[0].part.all_read == read);
          }
        }
        EXPECT(joined == whole);
      }
      EXPECT(contains(error_of([&] { part_of(plan.feed, 0, 11, o.bucket); }),
                      "at most as many as a batch has sequences, 10, got 11"));
    }
}

// Batches of these lengths, one like the other, labels 0, 1, 2, …
BatchFeed feed_of(const std::vector<int32_t>& lengths) {
  BatchFeed feed;
  feed.sequences = static_cast<int64_t>(lengths.size());
  feed.longest = std::ranges::max(lengths);
  for (const int32_t length : lengths) feed.tokens += length;
  feed.from = [lengths](int64_t) -> FillBatch {
    return [lengths](BatchView& view) {
      view.sequences = static_cast<int64_t>(lengths.size()), view.tokens = view.offsets[0] = 0;
      for (size_t b = 0; b < lengths.size(); ++b) {
        view.lengths[b] = lengths[b], view.labels[b] = static_cast<int32_t>(b);
        std::fill_n(view.ids + view.tokens, lengths[b], static_cast<int32_t>(b));
        view.offsets[b + 1] = static_cast<int32_t>(view.tokens += lengths[b]);
      }
      return true;
    };
  };
  return feed;
}

std::vector<BatchView> parts_of(const BatchFeed& feed, int ranks, bool exact = false) {
  std::vector<BatchView> parts;
  for (int r = 0; r < ranks; ++r) ids_of(part_of(feed, r, ranks, 1, exact), 1, &parts);
  return parts;
}

TEST_CASE(
    "ranks: parts have as many tokens but for half a sequence, and agree on how many sequences are launched") {
  const std::vector<std::vector<int32_t>> batches = {
      {30, 1, 1, 1, 1, 1, 1, 1, 1, 2},
      {2, 1, 1, 1, 1, 1, 1, 1, 1, 30},
      {7, 3, 9, 4, 4, 8, 1, 12, 5, 6, 2, 9, 9, 3, 1, 1, 1, 10, 4, 5},
      std::vector<int32_t>(96, 5),
  };
  for (const std::vector<int32_t>& lengths : batches)
    for (const int ranks : {2, 3, 5}) {
      INFO("first ", lengths[0], " of ", lengths.size(), " ranks ", ranks);
      const BatchFeed feed = feed_of(lengths);
      const std::vector<BatchView> parts = parts_of(feed, ranks);
      int64_t most = 0, sequences = 0, labels = 0;
      for (int r = 0; r < ranks; ++r) {
        const BatchView& part = parts[static_cast<size_t>(r)];
        most = std::max(most, part.tokens), sequences = std::max(sequences, part.sequences);
        labels += part.sequences;
        EXPECT(part.sequences >= 1);
        EXPECT(part.tokens * ranks <= feed.tokens + ranks * feed.longest);
        // Of parts that are longer than a sequence each cut is where it would be equal, but for half of the sequence there.
        if (feed.longest * ranks <= feed.tokens)
          EXPECT(2 * std::abs(part.part.tokens_before * ranks - feed.tokens * r) <= ranks * feed.longest);
      }
      EXPECT(labels == feed.sequences);
      for (const BatchView& part : parts) {
        EXPECT(part.part.most_tokens == most);
        EXPECT(part.part.most_sequences == sequences);
        EXPECT(part.part.all_read == feed.sequences);
        EXPECT(launched_sequences(part, feed.sequences) == std::min(feed.sequences, round_up(sequences, 8)));
      }
    }
  // The long one alone has more than half of the tokens; by sequences its part had 34 of 40.
  std::vector<BatchView> parts = parts_of(feed_of(batches[0]), 2);
  EXPECT(parts[0].sequences == 1);
  EXPECT(parts[0].tokens == 30);
  parts = parts_of(feed_of(batches[0]), 2, true);
  EXPECT(parts[0].sequences == 5);
  EXPECT(parts[0].tokens == 34);
  EXPECT(launched_sequences(parts[0], 5) == 5);
  // Nobody is without, though one sequence is as long as six parts.
  for (const size_t at : {0, 2, 4}) {
    std::vector<int32_t> lengths(5, 1);
    lengths[at] = 100;
    for (const BatchView& part : parts_of(feed_of(lengths), 5)) EXPECT(part.sequences == 1);
    for (const BatchView& part : parts_of(feed_of(lengths), 4)) EXPECT(part.sequences >= 1);
  }
  // Where a batch ends in sequences of no rows they are no part's.
  std::vector<int32_t> texts(200, 3);
  texts.resize(400);
  for (const BatchView& part : parts_of(feed_of(texts), 2)) {
    EXPECT(part.sequences == 100);
    EXPECT(part.part.most_sequences == 100);
  }
}

TEST_CASE("ranks: places behind a part's own sequences have no rows, no keys and no label") {
  Context context(Device::cpu());
  BatchFeed feed = feed_of({4, 1, 3, 2, 1, 1});
  feed.padded = feed.borders = true;
  BatchBuffer buffer(context, feed.tokens, feed.sequences, feed.longest, true, 0, {}, true, true);
  std::vector<int32_t> slot(static_cast<size_t>(buffer.ints()), 77);
  BatchView view = buffer.view(slot.data());
  REQUIRE(part_of(feed, 0, 2, 1).from(0)(view));
  EXPECT(view.sequences == 2);
  buffer.upload(slot.data(), view, 8, -1, 5);
  const Batch batch = buffer.batch(8, 5);
  using Ints = std::vector<int32_t>;
  EXPECT(batch.sequences.offsets.to_vector<int32_t>() == Ints{0, 4, 5, 5, 5, 5});
  EXPECT(batch.sequences.first_rows.to_vector<int32_t>() == Ints{0, 4, -1, -1, -1});
  EXPECT(batch.sequences.sequence_of.to_vector<int32_t>() == Ints{0, 0, 0, 0, 1, -1, -1, -1});
  EXPECT(batch.sequences.key_lengths.to_vector<int32_t>() == Ints{4, 1, 0, 0, 0});
  EXPECT(batch.labels.to_vector<int32_t>() == Ints{0, 1, -1, -1, -1});
  EXPECT(batch.borders.rows(2, 5).to_vector<int32_t>() == Ints{0, 0, 0});
  EXPECT(contains(error_of([&] { buffer.upload(slot.data(), view, 8, -1, 7); }), "7 sequences in a buffer of 6"));
}

TEST_CASE("ranks: what these ranks cannot have is an error of one line") {
  const Ranks& alone = Ranks::alone();
  EXPECT(alone.count(options_of({})) == 1);
  EXPECT(alone.count(options_of({"--ranks", "3"})) == 3);
  EXPECT(alone.count(options_of({"--reduction", "exact"})) == 8);
  EXPECT(contains(error_of([&] {
                    const Options o = options_of({"--ranks", "11"});
                    check_batch(o, alone.count(o));
                  }),
                  "a sequence for each of 11 ranks"));
  EXPECT(contains(error_of([] {
                    options_of({"--ranks", "2", "--reduction", "exact"});
                  }),
                  "--ranks: expected --chunks instead"));
  EXPECT(contains(error_of([] {
                    options_of({"--reduction", "quick"});
                  }),
                  "--reduction: expected one of fast, exact"));
  EXPECT(contains(error_of([] { options_of({"--chunks", "1"}); }), "--chunks"));
  EXPECT(contains(error_of([] { options_of({"--rank-timeout", "0"}); }), "--rank-timeout"));
}

TEST_CASE("ranks: a trace, which one rank writes, is refused before there is a result folder") {
  const TemporaryFolder folder("trace");
  Options o =
      options_of({"--reduction", "exact", "--trace-rows", "4", "--max-steps", "2", "--no-report", "--seeds", "1"});
  o.out = folder.path + "/results";
  const auto run = [&](const char* config) { run_experiment(o, find_study("ahr"), {config}, "x"); };
  EXPECT(contains(error_of([&] { run("softmax-moe"); }),
                  "--trace-rows: expected one rank, which sees all rows, got 8"));
  EXPECT(!std::filesystem::exists(o.out));
  EXPECT(error_of([&] { run("dense"); }) == "");
}

TEST_CASE("ranks: weights that differ at the start are told with the rank that has them") {
  const std::string error = error_of([] {
    run_ranks(3, [](std::unique_ptr<Communicator> ranks) {
      const int rank = ranks->rank();
      Context context(Device::cpu());
      set_ranks(context, std::move(ranks));
      require_same_start(Ranks::alone(), context, full(context, {4}, 1), 7);
      require_same_start(Ranks::alone(), context, full(context, {4}, rank == 2 ? 2 : 1), 7);
    });
  });
  EXPECT(contains(error, "rank 2: its weights at step 7 are not those of rank 0"));
}

}  // namespace
}  // namespace glia::test
