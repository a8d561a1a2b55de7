// Experts that are divided over ranks: the bits of experts that every rank has, whoever gets how many rows, and checkpoints that do not
// tell.
#include "engine/core/file.h"
#include "engine/ops/moe/moe.h"
#include "engine/ops/ranks/experts_over_ranks.h"
#include "nn/weights/checkpoint.h"
#include "tests/temporary_folder.h"
#include "tests/training/over_ranks.h"

namespace glia::test {
namespace {

TEST_CASE("expert parallel: exact sums have the same bits with 1, 2 and 4 ranks a group") {
  const std::vector<std::vector<const char*>> ways = {
      {},
      {"--task=masked_lm", "--padding=padded"},
      {"--precision=bfloat16", "--gradients=bfloat16", "--shard-optimiser"},
      {"--precision=bfloat16", "--gradients=float32", "--freeze=*up.bias"}};
  for (const auto& way : ways) {
    Options o = options_of(way);
    o.reduction = "exact", o.chunks = 8, o.graphs = false;
    const Trained one = train_over(o, "astrocyte-hierarchical", 3, 8, 1);
    for (const int parts : {2, 4}) {
      INFO(parts, " ", way.empty() ? "" : way[0]);
      o.expert_parallel = parts;
      const Trained divided = train_over(o, "astrocyte-hierarchical", 3, 8, parts == 2 ? 3 : 1);
      EXPECT(divided.losses == one.losses);
      EXPECT(divided.weights == one.weights);
      EXPECT(divided.evaluation == one.evaluation);
    }
  }
}

// Each rank then updates its own experts alone.
TEST_CASE("expert parallel: one group of all ranks has what undivided experts have but for rounding") {
  for (const auto& way :
       std::vector<std::vector<const char*>>{{},
                                             {"--shard-optimiser", "--clip=0.1"},
                                             {"--freeze=*up.weight", "--weight-decay-of=*down.weight=0.3"},
                                             {"--micro-batches=2", "--experts=8"}})
    for (const int ranks : {2, 4}) {
      INFO(ranks, " ", way.empty() ? "" : way[0]);
      Options o = options_of(way);
      const Trained whole = train_over(o, "softmax-moe", 10, ranks, 1);
      o.expert_parallel = ranks;
      EXPECT(apart(whole, train_over(o, "softmax-moe", 10, ranks, 1)) < 1e-6);
    }
}

TEST_CASE("expert parallel: a router, a loss or a rule that reads all experts' weights finds them as they are") {
  for (const char* flag : {"--coupling-loss=1", "--update-rule=orthogonal"}) {
    INFO(flag);
    Options o = options_of({flag, "--lr=0.01"});
    const Trained whole = train_over(o, "softmax-moe", 6, 2, 1);
    o.expert_parallel = 2;
    EXPECT(apart(whole, train_over(o, "softmax-moe", 6, 2, 1)) < 1e-6);
  }
}

struct Layer {
  std::vector<double> y, dx;
  std::vector<std::vector<double>> weights;  // gradients
};

// expert_ffn of the ranks' rows, `counts[r][e]` of rank r for expert e, in `group` ranks a group, and its gradient summed over all.
std::vector<Layer> layer_over(int group, const std::vector<std::vector<int32_t>>& counts) {
  const auto ranks = static_cast<int>(counts.size());
  const auto E = static_cast<int64_t>(counts[0].size());
  std::vector<Layer> all(counts.size());
  run_ranks(ranks, [&](std::unique_ptr<Communicator> communicator) {
    const auto rank = static_cast<size_t>(communicator->rank());
    Context context(Device::cpu(), 1);
    set_ranks(context, std::move(communicator));
    std::vector<int32_t> starts(counts[0].size() + 1);
    std::partial_sum(counts[rank].begin(), counts[rank].end(), starts.begin() + 1);
    const Tensor offsets = from_vector(context, starts, {E + 1});
    const auto made = [&](const Shape& shape, uint64_t seed) {
      return Var::parameter(random_normal(context, shape, 1, seed, 1));
    };
    const Var x = made({starts.back() + 3, 8}, 10 + rank);  // behind them rows of nobody
    const std::array<Var, 4> w = {made({E, 16, 8}, 1), made({E, 16}, 2), made({E, 8, 16}, 3), made({E, 8}, 4)};
    const Var y = group == 1 ? expert_ffn(x, w[0], w[1], w[2], w[3], offsets)
                             : expert_ffn_over_ranks(x, {w, {}, group}, offsets);
    Tensor dy = zeros(context, y.shape());
    if (starts.back() > 0)
      dy.rows(0, starts.back()).copy_from(random_normal(context, {starts.back(), 8}, 1, 20 + rank, 1));
    backward(y, dy);
    const auto real = [&](const Tensor& t) {
      return starts.back() > 0 ? values(t.rows(0, starts.back())) : std::vector<double>();
    };
    all[rank].y = real(y.value()), all[rank].dx = real(x.grad());
    for (const Var& v : w) {
      Tensor g = v.grad();
      context.communicator().all_reduce(g.raw(), g.numel(), g.dtype(), Reduction::kSum);
      all[rank].weights.push_back(values(g));
    }
  });
  return all;
}

// The layer of rows that all ranks get, beside the undivided one: y, the gradients of x, gates and, summed over the ranks, weights.
TEST_CASE("expert parallel: rows of all ranks give what undivided experts do but for rounding") {
  constexpr int64_t T = 9, K = 2, E = 6, H = 8, F = 16;
  for (const int ranks : {2, 3}) {
    run_ranks(ranks, [&](std::unique_ptr<Communicator> communicator) {
      const auto rank = static_cast<uint64_t>(communicator->rank());
      Context context(Device::cpu(), 1);
      set_ranks(context, std::move(communicator));
      for (const int64_t capacity : {int64_t{0}, T * K - 2}) {
        std::vector<int32_t> chosen;  // of row 3 nobody, and rank 1's all of the last two experts
        for (int64_t i = 0; i < T * K; ++i)
          chosen.push_back(static_cast<int32_t>(i / K == 3 ? -1 : rank == 1 ? E - 1 - i % 2 : (i * 5 + i / K) % E));
        const Tensor experts = from_vector(context, chosen, {T, K});
        const auto made = [&](const Shape& shape, uint64_t seed) {
          return Var::parameter(random_normal(context, shape, 1, seed, 1));
        };
        const auto layer = [&](bool over) {
          const Var x = made({T, H}, 10 + rank), gates = made({T, K}, 20 + rank);
          const std::array<Var, 4> w = {made({E, F, H}, 1), made({E, F}, 2), made({E, H, F}, 3), made({E, H}, 4)};
          const Var y =
              over ? expert_layer_over_ranks(x, gates, experts, capacity, {w, {}, ranks})
                   : expert_layer(x, gates, make_dispatch(experts, E, 1, capacity), w[0], w[1], w[2], w[3]);
          backward(y, random_normal(context, y.shape(), 1, 30 + rank, 1));
          std::vector<std::vector<double>> all = {values(y.value()), values(x.grad()), values(gates.grad())};
          for (const Var& v : w) {
            Tensor g = v.grad();
            context.communicator().all_reduce(g.raw(), g.numel(), g.dtype(), Reduction::kSum);
            all.push_back(values(g));
          }
          return all;
        };
        const auto whole = layer(false), over = layer(true);
        for (size_t i = 0; i < whole.size(); ++i) {
          INFO(ranks, " ", i);
          EXPECT(largest_difference(whole[i], over[i]) < 1e-5);
        }
      }
    });
  }
}

TEST_CASE("expert parallel: an expert without rows, all rows to one, and a rank that has none") {
  for (const auto& counts :
       std::vector<std::vector<std::vector<int32_t>>>{{{3, 0, 2, 5}, {1, 0, 4, 2}},
                                                      {{9, 0, 0, 0}, {7, 0, 0, 0}},
                                                      {{0, 0, 0, 6}, {0, 0, 0, 1}},
                                                      {{0, 0, 0, 0}, {2, 1, 0, 4}},
                                                      {{0, 0, 0, 0}, {0, 0, 0, 0}},
                                                      {{1, 2, 3, 4}, {4, 3, 2, 1}, {0, 5, 0, 5}, {8, 0, 0, 1}}}) {
    const std::vector<Layer> whole = layer_over(1, counts);
    for (int group = 2; group <= static_cast<int>(counts.size()); group *= 2) {
      const std::vector<Layer> divided = layer_over(group, counts);
      for (size_t r = 0; r < counts.size(); ++r) {
        INFO(group, " rank ", r);
        EXPECT(divided[r].y == whole[r].y);
        EXPECT(divided[r].dx == whole[r].dx);
        EXPECT(divided[r].weights == whole[r].weights);
      }
    }
  }
}

TEST_CASE("expert parallel: a checkpoint of one division goes on in another with the same bits") {
  const TemporaryFolder folder("expert-parallel");
  const auto run = [&](int parts, const std::string& from, int64_t steps, const std::string& to) {
    Options o = options_of({"--reduction=exact", "--chunks=8", "--experts=8"});
    o.expert_parallel = parts;
    go_on(o, "softmax-moe", 8, from, steps, to);
    return read_file(to);
  };
  const std::string at4 = run(4, "", 2, folder / "four");
  EXPECT(at4 == run(1, "", 2, folder / "one"));
  const std::string after = run(1, folder / "four", 2, folder / "after");
  for (const int parts : {2, 8}) EXPECT(run(parts, folder / "four", 2, folder / "other") == after);
  EXPECT(after != at4);
}

// Of experts that were each rank's own: whole in the file, so that whoever loads it evaluates to the same bits and goes on as anybody.
TEST_CASE("expert parallel: a checkpoint of own experts holds all of them and their moments") {
  const TemporaryFolder folder("own-experts");
  Options o = options_of({"--experts=8", "--shard-optimiser"});
  o.expert_parallel = 4;
  go_on(o, "softmax-moe", 4, "", 3, folder / "four");
  go_on(o, "softmax-moe", 4, folder / "four", 0, folder / "again");
  EXPECT(read_file(folder / "again") == read_file(folder / "four"));
  for (const int parts : {1, 2}) {
    o.expert_parallel = parts;
    go_on(o, "softmax-moe", 2, folder / "four", 0, folder / "other");
    EXPECT(read_file(folder / "other") == read_file(folder / "four"));
  }
  // Killed and gone on with: the bits of a run that was not.
  o.expert_parallel = 4;
  go_on(o, "softmax-moe", 4, folder / "four", 2, folder / "on");
  go_on(o, "softmax-moe", 4, "", 5, folder / "through");
  EXPECT(read_file(folder / "on") == read_file(folder / "through"));
}

TEST_CASE("expert parallel: what cannot be divided is one line, before anything is read") {
  const auto said = [](std::vector<const char*> words) {
    return error_of([&] { Ranks::alone().check(options_of(std::move(words))); });
  };
  EXPECT(contains(said({"--ranks=3", "--expert-parallel=2"}),
                  "--expert-parallel: expected a divisor of 3 ranks, got 2"));
  EXPECT(contains(said({"--ranks=3", "--expert-parallel=3"}), "a divisor of --experts, 4, got 3"));
  EXPECT(contains(said({"--expert-parallel=2"}), "a divisor of 1 ranks"));
  EXPECT(
      contains(said({"--reduction=exact", "--chunks=6", "--experts=6", "--expert-parallel=3"}), "a power of two"));
  EXPECT(contains(said({"--reduction=exact", "--micro-batches=2", "--batch=16", "--expert-parallel=2"}),
                  "one micro-batch"));
  EXPECT(contains(error_of([] { options_of({"--expert-parallel=0"}); }), "--expert-parallel"));
  const Options o = options_of({});
  MoeConfig c = run_model(o, configuration("softmax-moe")).moe;
  c.expert_ranks = 2;
  for (const MixtureRow& row : mixture_registry()) {
    c.options.set(mixture_option().name, std::string(row.name));
    ParameterSet set;
    const std::string error = error_of([&] { make_mixture(set, "layer", c, BertConfig{}, 0); });
    INFO(row.name, " ", error);
    EXPECT((std::string_view(row.name) == "routed" ? error.empty() : contains(error, "--expert-parallel")));
  }
}

}  // namespace
}  // namespace glia::test
