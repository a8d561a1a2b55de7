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

TEST_CASE("expert parallel: one group of all ranks has what undivided experts have but for rounding") {
  Options o = options_of({});
  for (const int ranks : {2, 4}) {
    o.expert_parallel = 1;
    const Trained whole = train_over(o, "softmax-moe", 10, ranks, 1);
    o.expert_parallel = ranks;
    EXPECT(apart(whole, train_over(o, "softmax-moe", 10, ranks, 1)) < 1e-6);
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
    const DType f = DType::kFloat32;
    const Var y = group == 1 ? expert_ffn(x, w[0], w[1], w[2], w[3], offsets)
                             : expert_ffn_over_ranks(x, {w, {f, f, f, f}, group}, offsets);
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
