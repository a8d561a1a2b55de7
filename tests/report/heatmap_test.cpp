#include "experiments/report/pictures/heatmap.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "engine/core/random/rng.h"
#include "tests/records/fake_results.h"
#include "tests/test.h"

using namespace glia;
using namespace glia::results;
using namespace glia::test;

namespace {

double total(const std::vector<double>& cost, int n, const std::vector<int>& columns) {
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += cost[size_t(i * n + columns[size_t(i)])];
  return sum;
}

}  // namespace

TEST_CASE("assignment: as cheap as the best of all permutations") {
  for (int n = 1; n <= 6; ++n)
    for (uint32_t trial = 0; trial < 30; ++trial) {
      std::vector<double> cost(size_t(n * n));
      for (size_t i = 0; i < cost.size(); ++i) {
        const PhiloxBlock block = random_block(7, purpose::kTest, trial, uint64_t(n) * 1000 + i);
        cost[i] = trial % 3 == 0 ? double(block.word[0] % 4) : block.word[0] * 0x1p-32 - 0.5;  // ties; negatives
      }
      const std::vector<int> found = best_assignment(cost, n);
      std::vector<int> sorted = found, permutation(static_cast<size_t>(n));
      std::sort(sorted.begin(), sorted.end());
      std::iota(permutation.begin(), permutation.end(), 0);
      REQUIRE(sorted == permutation);
      double best = 1e9;
      do best = std::min(best, total(cost, n, permutation));
      while (std::next_permutation(permutation.begin(), permutation.end()));
      EXPECT(total(cost, n, found) == doctest::Approx(best).epsilon(1e-12));
    }
  EXPECT(contains(error_of([] { best_assignment({1, 2}, 2); }), "wants an [n, n] cost"));
}

TEST_CASE("heatmap: the mean over seeds is over matched experts") {
  Matrix a(2, 3);
  a.values = {.7, .2, .1, .1, .3, .6};
  Matrix b(2, 3);  // a with its experts in another order, and a little noise
  b.values = {.1, .72, .18, .6, .1, .3};
  const Matrix mean = matched_mean({a, b});
  const std::vector<double> wanted = {.71, .19, .1, .1, .3, .6};
  for (size_t i = 0; i < wanted.size(); ++i) EXPECT(mean.values[i] == doctest::Approx(wanted[i]));
  EXPECT(matched_mean({a}) == a);
}

TEST_CASE("heatmap: text, layer choice and its errors") {
  TemporaryFolder tmp("heatmap");
  for (int seed : {0, 1}) write_fake_run(tmp.path, fake_config("astrocyte", seed), 2);
  const Run run = read_run(run_folder(tmp.path, 0, "astrocyte"));
  Heatmap map = heatmap_of(run, false, 2);
  REQUIRE(map.layers.size() == 1);
  map.layers[0].values.assign(32, 0.125);
  const std::string text = as_text(map, false);
  EXPECT(contains(text, "astrocyte, seed0: all tokens (percent)\n  layer 2 · specialisation 0.0000\n"));
  EXPECT(contains(text, "  Sci/Tech  12.5   12.5"));
  EXPECT(!contains(text, "\x1b["));
  EXPECT(contains(as_text(map, true), "\x1b[48;5;"));
  EXPECT(contains(error_of([&] { heatmap_of(run, false, 5); }), "expected a layer in 1…4, got 5"));
  // One colour scale for all layers, up to the largest share of any: the same share has one colour.
  Heatmap all = heatmap_of(run, false);
  for (Matrix& m : all.layers) m.values.assign(32, 0.125);
  all.layers[2].values[5] = 0.78;
  const std::string scaled = draw(all).svg_text();
  EXPECT(contains(scaled, ">80 %</text>"));
  const std::string coloured = as_text(all, true);
  const size_t first = coloured.find("\x1b["), last = coloured.rfind("\x1b[48");
  EXPECT(coloured.substr(first, 12) == coloured.substr(last, 12));
  const Heatmap mean = heatmap_of_mean(list_runs(tmp.path).runs, true);
  EXPECT(mean.title == "astrocyte, mean of 2 seeds, experts matched: CLS rows only");
  EXPECT(mean.layers.size() == 4);
}

TEST_CASE("tools/heatmap: a broken run does not stop the others, and the exit status says so") {
  if (!std::filesystem::exists("tools/heatmap")) SKIP("tools/heatmap is not built");
  TemporaryFolder tmp("heatmap-tool");
  for (const char* config : {"dense", "softmax-moe", "astrocyte"})
    write_fake_run(tmp.path, fake_config(config, 3), 2);
  const auto tool = [&](const std::string& arguments) {
    const std::string command =
        "./tools/heatmap " + arguments + " > " + tmp.path + "/stdout 2> " + tmp.path + "/stderr";
    return std::system(command.c_str());
  };
  const auto exists = [&](const char* name) {
    return std::filesystem::exists(tmp.path + "/heatmaps/seed3/" + name);
  };
  EXPECT(tool(tmp.path + "/seed3") == 0);
  for (const char* name : {"astrocyte_layer1.csv", "astrocyte_layer4.csv", "softmax-moe.svg", "softmax-moe.png"})
    EXPECT(exists(name));
  EXPECT(!exists("dense.svg"));
  EXPECT(read_utilisation(tmp.path + "/heatmaps/seed3/astrocyte_layer4.csv").u ==
         read_utilisation(tmp.path + "/seed3/astrocyte/utilization_layer4.csv").u);
  std::filesystem::remove_all(tmp.path + "/heatmaps");
  std::ofstream(tmp.path + "/seed3/astrocyte/utilization_layer2.csv") << "topic,expert0\n";
  EXPECT(tool(tmp.path + "/seed3 --format svg,csv") != 0);
  EXPECT(exists("softmax-moe.svg"));
  EXPECT(!exists("softmax-moe.png"));
  EXPECT(!exists("astrocyte.svg"));
  EXPECT(tool(tmp.path + "/seed3/dense") != 0);
  EXPECT(tool(tmp.path) != 0);
  EXPECT(tool(tmp.path + "/nowhere") != 0);
}

TEST_CASE("heat map: an even share is marked where gates are shares, and not where they sum to anything") {
  Heatmap map{"t", "", {"a", "b"}, {Matrix(2, 2)}, {1}, {}};
  map.layers[0].values = {0.25, 0.75, 0.5, 0.5};
  EXPECT(contains(draw(map).svg_text(), "even share 50 %"));
  map.layers[0].values = {0.25, 0.25, 0.1, 0.5};
  EXPECT(!contains(draw(map).svg_text(), "even share"));
}
