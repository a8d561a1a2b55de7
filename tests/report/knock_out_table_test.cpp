// Tables of what saved models said when they were asked again.
#include "experiments/report/of_runs/knock_out_table.h"

#include <filesystem>

#include "engine/core/file.h"
#include "tests/records/fake_results.h"
#include "tests/test.h"

namespace fs = std::filesystem;
using namespace glia;
using namespace glia::test;

namespace {

// A finished run whose accuracy and whose last layer's specialisation (of two layers) are given.
std::string write_run(const std::string& out, const std::string& config, int seed, double accuracy,
                      double specialisation) {
  const results::RunConfig c = fake_config(config, seed, 2, 2);
  const std::string folder = results::run_folder(out, seed, config);
  results::begin_run(folder, c, false);
  std::vector<results::LayerUtilisation> utilisation;
  results::Evaluation evaluation = fake_evaluation(c, utilisation);
  evaluation.values.set("accuracy", accuracy);
  if (!evaluation.layers.empty()) evaluation.layers.back()["specialisation"] = specialisation;
  results::write_evaluation(folder, evaluation, utilisation, c.data.class_names);
  return folder;
}

void write_analysis(const std::string& folder, const std::string& knock_out) {
  write_file_atomic(folder + "/analysis.json",
                    R"({"states": [{"specialisation_random_router": [0.5], "expert_similarity_mean": 0.25},
                                   {"specialisation_random_router": [0.02, 0.04], "expert_similarity_mean": null}],
                        "knock_out": )" +
                        knock_out + "}");
}

constexpr const char* kOne = R"({"rows": 200, "accuracy": 0.9, "without_first": 0.5, "first_alone": 0.88,
    "layers": [{"lost": [0.01, -0.002]}, {"lost": [0, 0.032]}]})";
constexpr const char* kOther = R"({"rows": 200, "accuracy": 0.8, "without_first": 0.8, "first_alone": 0.81,
    "layers": [{"lost": [0.01, 0.01]}, {"lost": [0.01, 0.01]}]})";

}  // namespace

TEST_CASE("report: knock-out is told in points lost, means over the seeds that were asked") {
  const TemporaryFolder out("knock-out");
  for (int seed : {0, 1, 2}) {
    write_run(out.path, "dense", seed, 0.9, 0);
    const std::string folder = write_run(out.path, "softmax-moe", seed, 0.9, 0.1 + 0.01 * seed);
    if (seed < 2) write_analysis(folder, seed == 0 ? kOne : kOther);
  }
  const results::Listing listing = results::list_runs(out.path);
  const results::Summary s = results::summarise(listing);
  const results::Table t = results::knock_out_table(s, listing);
  REQUIRE(t.rows.size() == 1);
  // Lost without one: 1.0 of each run; the most 3.2 and 1.0; 2 of 4 and 0 of 4 idle; 40 and 0; 2 and −1.
  EXPECT(t.rows[0] == std::vector<std::string>{"softmax-moe", "2", "+1.00", "+2.10", "1.0", "+20.00", "+0.50",
                                               "0.1100", "0.0300", "n/a"});
  EXPECT(contains(t.note, "points of accuracy lost on 200 test rows"));
  EXPECT(results::specialisation_foretells_table(s, listing).rows.empty());  // one configuration says nothing
  EXPECT(contains(results::results_markdown(s, results::tables_of_runs(s, listing)), "### Knock-out"));

  write_analysis(results::run_folder(out.path, 2, "softmax-moe"), R"({"rows": 100, "accuracy": 0.9,
      "without_first": 0.5, "first_alone": 0.88, "layers": [{"lost": [0.01]}]})");
  EXPECT(contains(error_of([&] { results::knock_out_table(s, listing); }), "expected accuracy of 200 test rows"));
  write_analysis(results::run_folder(out.path, 2, "softmax-moe"), R"({"rows": 200, "accuracy": 0.9})");
  EXPECT(contains(error_of([&] { results::knock_out_table(s, listing); }),
                  "analysis.json: expected what tools/analyse"));
}

TEST_CASE("report: what specialisation foretells is a rank correlation over configurations") {
  const TemporaryFolder out("foretells");
  const std::vector<std::string> configs = {"softmax-moe", "astrocyte", "astrocyte-hierarchical",
                                            "softmax-moe-energy", "astrocyte-meanpool"};
  for (size_t i = 0; i < configs.size(); ++i)
    for (int seed : {0, 1, 2}) {  // in accuracy the other way round, in idle experts not at all
      const std::string folder =
          write_run(out.path, configs[i], seed, 0.9 - 0.01 * double(i), 0.1 + 0.02 * double(i) + 0.001 * seed);
      if (i < 4) write_analysis(folder, i % 2 ? kOne : kOther);
    }
  const results::Listing listing = results::list_runs(out.path);
  const results::Table t = results::specialisation_foretells_table(results::summarise(listing), listing);
  REQUIRE(t.rows.size() == 1);  // four with knock-out are too few
  EXPECT(t.rows[0] == std::vector<std::string>{"test accuracy", "5", "-1.00", "<0.001"});
  for (int seed : {0, 1, 2}) write_analysis(results::run_folder(out.path, seed, configs[4]), kOther);
  const results::Table more = results::specialisation_foretells_table(results::summarise(listing), listing);
  REQUIRE(more.rows.size() > 5);
  EXPECT(more.rows[1][0] == "lost without one expert");
  EXPECT(more.rows[1][2] == "n/a");    // the same everywhere
  EXPECT(more.rows[2][2] == "+0.00");  // 1 3.2 1 3.2 1 by rank
  fs::remove_all(out.path + "/seed2");
  const results::Listing two = results::list_runs(out.path);
  const results::Table few = results::specialisation_foretells_table(results::summarise(two), two);
  EXPECT(few.rows[0][2] == "-1.00");
  EXPECT(few.rows[0][3] == "n/a");
  EXPECT(contains(few.note, "no p with fewer than 3 seeds"));
}
