// AdamW whose moments ranks share out: the bits of the optimiser that has them whole, in every way that parameters are grouped, and
// checkpoints that do not tell.
#include <atomic>
#include <functional>
#include <map>
#include <new>

#include "engine/core/file.h"
#include "nn/weights/checkpoint.h"
#include "tests/temporary_folder.h"
#include "tests/training/over_ranks.h"
#include "tests/training/wrapped_ranks.h"

namespace glia::test {
namespace {

// But for gradients in bfloat16, of which each rank has a part: their norm is a sum of the ranks' sums.
TEST_CASE("shared moments: steps have the bits of moments that every rank has") {
  const std::vector<std::vector<const char*>> ways = {
      {},
      {"--task=masked_lm"},
      {"--no-lazy-embedding", "--clip=0.1"},
      {"--precision=bfloat16", "--gradients=bfloat16"},
      {"--adam-state=bfloat16"},
      {"--adam-state=bfloat16", "--precision=bfloat16", "--gradients=bfloat16"},
      {"--precision=bfloat16", "--gradients=float32", "--micro-batches=2"},
      {"--lr-of=*layer.1*=0.001", "--weight-decay-of=*word*=0.1", "--freeze=*position*"}};
  for (const auto& way : ways)
    for (const char* config : {"dense", "astrocyte-hierarchical"}) {
      Options o = options_of(way);
      for (const int ranks : {2, 3}) {
        INFO(config, " ", ranks, " ", way.empty() ? "" : way[0]);
        o.shard_optimiser = false;
        const Trained whole = train_over(o, config, 4, ranks, 1);
        o.shard_optimiser = true;
        const Trained parts = train_over(o, config, 4, ranks, 1);
        if (o.gradients == "bfloat16") {
          EXPECT(apart(whole, parts) < 1e-6);
          continue;
        }
        EXPECT(parts.losses == whole.losses);
        EXPECT(parts.weights == whole.weights);
        EXPECT(parts.evaluation == whole.evaluation);
      }
    }
}

// Ranks that say whether products are worth sharing, whose memory for sums is their own, and where what runs aside is done as late as
// it may be: whoever reads before the wait reads what was there.
class Sharing : public Beside {
 public:
  Sharing(std::unique_ptr<Communicator> inner, bool worth, std::atomic<int>& gathers)
      : Beside(std::move(inner)), worth_(worth), gathers_(gathers) {}
  bool takes_multiprocessors() const override { return !worth_; }
  bool worth_sharing(int64_t n) const override { return worth_ && n >= 256; }
  void all_reduce_aside(void* data, int64_t n, DType dtype) override {
    later_.push_back([=, this] { Beside::all_reduce_aside(data, n, dtype); });
  }
  void all_gather_aside(void* data, int64_t n, DType dtype) override {
    ++gathers_;
    later_.push_back([=, this] { Beside::all_gather_aside(data, n, dtype); });
  }
  void mark_aside(size_t number) override { marks_[number] = later_.size(); }
  void join_aside_up_to(size_t number) override { do_up_to(marks_.at(number)); }
  void join_aside() override {
    do_up_to(later_.size());
    later_.clear(), marks_.clear(), done_ = 0;
  }
  std::shared_ptr<void> shared_memory(int64_t bytes) override {
    return {::operator new (static_cast<size_t>(bytes), std::align_val_t{64}),
            [](void* p) { ::operator delete (p, std::align_val_t{64}); }};
  }

 private:
  void do_up_to(size_t end) {
    for (; done_ < end; ++done_) later_[done_]();
  }

  bool worth_;
  std::atomic<int>& gathers_;
  std::vector<std::function<void()>> later_;
  std::map<size_t, size_t> marks_;
  size_t done_ = 0;
};

// Where gathers of weights cost less than their update, and rows of the table wait as ever.
TEST_CASE("shared moments: those of large products alone have the bits of moments that every rank has") {
  const std::vector<std::vector<const char*>> ways = {{},
                                                      {"--no-lazy-embedding"},
                                                      {"--adam-state=bfloat16", "--clip=0.1"},
                                                      {"--lr-of=*layer.1*=0.001", "--freeze=*position*"},
                                                      {"--micro-batches=2"}};
  for (const auto& way : ways)
    for (const char* config : {"dense", "astrocyte-hierarchical"})
      for (const int ranks : {2, 3}) {
        std::vector<const char*> words = {"--precision=bfloat16", "--gradients=bfloat16"};
        words.insert(words.end(), way.begin(), way.end());
        const Options o = options_of(words);
        const Dataset data = load_data(o);
        INFO(config, " ", ranks, " ", way.empty() ? "" : way[0]);
        std::atomic<int> gathers[2] = {};
        std::vector<Trained> of[2] = {std::vector<Trained>(3), std::vector<Trained>(3)};
        std::vector<std::string> saved[2] = {std::vector<std::string>(3), std::vector<std::string>(3)};
        const TemporaryFolder folder("products");
        for (const int shared : {0, 1})
          run_ranks(ranks, [&](std::unique_ptr<Communicator> communicator) {
            const auto rank = static_cast<size_t>(communicator->rank());
            Context context(Device::cpu(), 42);
            set_ranks(context, std::make_unique<Sharing>(std::move(communicator), shared == 1, gathers[shared]));
            {
              Trainer trainer(context, data, o, run_model(o, configuration(config)), 42);
              for (int i = 0; i < 4; ++i) trainer.step();
              EXPECT(trainer.optimiser().shared_out() == (shared == 1));
              const std::string path = folder / fmt::format("{}", shared);
              trainer.checkpoint(rank == 0, [&] {
                save_checkpoint(path, trainer.model().parameters(), &trainer.optimiser(), {},
                                {trainer.done(), 42, "", ""});
              });
              context.communicator().barrier();
              saved[shared][rank] = read_file(path);
            }
            of[shared][rank] = train_on(context, o, config, data, 4);
            EXPECT(context.allocator().stats().active == 0);
          });
        // Rows of words in both ways; of weights two pieces at least of eight steps.
        EXPECT(gathers[1] >= gathers[0] + 2 * 8 * ranks);
        for (size_t rank = 0; rank < static_cast<size_t>(ranks); ++rank) {
          EXPECT(of[1][rank].losses == of[0][rank].losses);
          EXPECT(of[1][rank].weights == of[0][rank].weights);
          EXPECT(of[1][rank].evaluation == of[0][rank].evaluation);
          EXPECT(saved[1][rank] == saved[0][rank]);
        }
      }
}

// Of every step a log has the norm: that of all gradients, whoever has summed which part of them.
TEST_CASE("shared moments: the norm is that of all gradients") {
  const auto norms = [](const std::vector<const char*>& flags) {
    const Options o = options_of(flags);
    const Dataset data = load_data(o);
    std::vector<std::vector<double>> all(2);
    run_ranks(2, [&](std::unique_ptr<Communicator> communicator) {
      std::vector<double>& own = all[static_cast<size_t>(communicator->rank())];
      Context context(Device::cpu(), 42);
      set_ranks(context, std::move(communicator));
      Trainer trainer(context, data, o, run_model(o, configuration("softmax-moe")), 42);
      for (int i = 0; i < 3; ++i) trainer.step(), own.push_back(trainer.optimiser().report().gradient_norm);
    });
    EXPECT(all[0] == all[1]);
    return all[0];
  };
  const std::vector<const char*> low = {"--precision=bfloat16", "--gradients=bfloat16", "--clip=0.1"};
  const auto with = [&](std::vector<const char*> more) {
    more.insert(more.begin(), low.begin(), low.end());
    return norms(more);
  };
  const std::vector<double> whole = with({});
  for (const auto& way : std::vector<std::vector<const char*>>{{"--shard-optimiser"},
                                                               {"--expert-parallel=2"},
                                                               {"--shard-optimiser", "--expert-parallel=2"},
                                                               {"--shard-optimiser", "--micro-batches=2"},
                                                               {"--shard-optimiser", "--coupling-loss=1e-9"}}) {
    const std::vector<double> parts = with(way);
    for (size_t i = 0; i < whole.size(); ++i) {
      INFO(way[0], " ", i, " ", whole[i], " ", parts[i]);
      EXPECT(std::abs(parts[i] - whole[i]) < 1e-2 * whole[i]);
    }
  }
}

TEST_CASE("shared moments: exact sums have the same bits in 1 and 3 processes") {
  for (const char* gradients : {"--gradients=float32", "--gradients=bfloat16"}) {
    Options o =
        options_of({"--shard-optimiser", "--precision=bfloat16", gradients, "--reduction=exact", "--chunks=4"});
    const Trained one = train_over(o, "astrocyte-hierarchical", 3, 4, 1);
    EXPECT(train_over(o, "astrocyte-hierarchical", 3, 4, 3).weights == one.weights);
    o.shard_optimiser = false;
    EXPECT(train_over(o, "astrocyte-hierarchical", 3, 4, 1).weights == one.weights);
  }
}

TEST_CASE("shared moments: a checkpoint has the bytes of whole moments, and any number of ranks goes on from it") {
  for (const char* state : {"--adam-state=float32", "--adam-state=bfloat16"}) {
    INFO(state);
    const TemporaryFolder folder("shared-moments");
    const auto path = [&](const char* name) { return folder / name; };
    const Options whole = options_of({state}), parts = options_of({state, "--shard-optimiser"});
    go_on(whole, "softmax-moe", 3, "", 2, path("whole"));
    go_on(parts, "softmax-moe", 3, "", 2, path("parts"));
    EXPECT(read_file(path("parts")) == read_file(path("whole")));
    // Whoever reads it writes it again as it was.
    for (const int ranks : {1, 2, 4}) {
      INFO(ranks);
      go_on(parts, "softmax-moe", ranks, path("parts"), 0, path("again"));
      EXPECT(read_file(path("again")) == read_file(path("whole")));
    }
    // Two further steps of two ranks, from three's.
    go_on(whole, "softmax-moe", 2, path("parts"), 2, path("whole2"));
    go_on(parts, "softmax-moe", 2, path("parts"), 2, path("parts2"));
    EXPECT(read_file(path("parts2")) == read_file(path("whole2")));
    EXPECT(read_file(path("parts2")) != read_file(path("parts")));
  }
}

TEST_CASE("shared moments: whoever reads them without having gathered them is told") {
  run_ranks(2, [&](std::unique_ptr<Communicator> communicator) {
    Context context(Device::cpu(), 42);
    set_ranks(context, std::move(communicator));
    ParameterSet parameters;
    parameters.add("w", {100, 3}, Init::normal(1), true);
    parameters.materialise(context, 1);
    AdamW optimiser(parameters, {}, false, {.moments = true});
    EXPECT(contains(error_of([&] { optimiser.m(); }), "are to be gathered before"));
    optimiser.gather();
    EXPECT(optimiser.m().numel() == parameters.trained_size());
  });
}

}  // namespace
}  // namespace glia::test
