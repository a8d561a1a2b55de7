#include "experiments/report/summary.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "experiments/report/tables.h"
#include "experiments/studies/published.h"
#include "tests/records/fake_results.h"
#include "tests/test.h"

using namespace glia;
using namespace glia::results;
using namespace glia::test;

namespace {

Run fake_run(const std::string& config, int seed, double accuracy) {
  Run run;
  run.folder = fmt::format("seed{}/{}", seed, config);
  run.config = fake_config(config, seed);
  run.state = RunState::done;
  std::vector<LayerUtilisation> utilisation;
  run.evaluation = fake_evaluation(run.config, utilisation);
  run.evaluation->accuracy = accuracy;
  run.timing["seconds"] = 100.0;
  return run;
}

bool warns(const Summary& s, const std::string& part) {
  return std::ranges::any_of(s.warnings, [&](const auto& w) { return contains(w, part); });
}

}  // namespace

TEST_CASE("summary: estimates, tests and Holm families over the configurations") {
  Listing listing{"out", {}, {}};
  const std::vector<double> dense = {0.9431, 0.9433, 0.9428, 0.9436, 0.9427};
  const std::vector<double> ours = {0.9423, 0.9431, 0.9418, 0.9427, 0.9415};
  for (int seed = 0; seed < 5; ++seed) {
    listing.runs.push_back(fake_run("dense", seed, dense[size_t(seed)]));
    listing.runs.push_back(fake_run("astrocyte", seed, ours[size_t(seed)]));
    listing.runs.push_back(fake_run("softmax-moe", seed, dense[size_t(seed)] - (seed % 2 ? 0.02 : 0.03)));
  }
  const Summary s = summarise(listing);
  const ConfigSummary& c = *s.find("astrocyte");
  EXPECT(*c.find("accuracy")->estimate.mean == doctest::Approx(0.94228));
  const Comparison& vs = *c.against("accuracy", "dense");
  EXPECT(*vs.difference == doctest::Approx(-0.00082));
  EXPECT(*vs.welch_p == doctest::Approx(0.04730075635407654));  // scipy, tests/fixtures/statistics.json
  EXPECT(*vs.paired_p == doctest::Approx(0.008244631006855036));
  EXPECT(*vs.cohen_d == doctest::Approx(-1.5538219515413205));
  EXPECT(*vs.welch_holm == doctest::Approx(0.04730075635407654));  // the larger of two: times 1
  const Comparison& smaller = *s.find("softmax-moe")->against("accuracy", "dense");
  EXPECT(*smaller.welch_holm == doctest::Approx(2 * *smaller.welch_p));
  EXPECT(s.find("dense")->find("accuracy")->vs.size() == 1);  // against softmax-moe only
  EXPECT(c.against("specialisation.4", "softmax-moe")->welch_p.has_value());
  EXPECT(!c.against("specialisation.4", "dense"));
  EXPECT(s.layers == 4);
  EXPECT(s.seconds == 1500);
  for (const Run& run : listing.runs)  // each layer's each number under its own name
    for (size_t l = 0; l < run.evaluation->layers.size(); ++l) {
      const LayerMetrics& m = run.evaluation->layers[l];
      const std::pair<const char*, double> all[] = {{"specialisation", m.specialisation},
                                                    {"specialisation_cls", m.specialisation_cls},
                                                    {"mutual_information_bits", m.mutual_information_bits},
                                                    {"mutual_information_bits_cls", m.mutual_information_bits_cls},
                                                    {"entropy_bits", m.entropy_bits},
                                                    {"load_cv", m.load_cv},
                                                    {"dead_experts", m.dead_experts},
                                                    {"largest_share", m.largest_share}};
      for (const auto& [name, value] : all) {
        INFO(name);
        const Metric* metric = s.find(run.config.config)->find(layer_metric(name, int(l) + 1));
        REQUIRE(metric);
        EXPECT(metric->values.at(size_t(run.config.seed_index)) == value);
      }
    }
  EXPECT(contains(as_text(accuracy_table(s)), "0.9423 ±0.0003"));
  EXPECT(to_json(summary_from(to_json(s), "x")) == to_json(s));
}

TEST_CASE("published: the numbers of docs/science.md 5") {
  struct Row {
    const char* config;
    double accuracy, first, last;
  };
  constexpr Row rows[] = {
      {"softmax-moe", 0.9411, 0.0154, 0.0588},         {"softmax-moe-energy", 0.9415, 0.0164, 0.0570},
      {"astrocyte", 0.9413, 0.0128, 0.0689},           {"astrocyte-no-energy", 0.9418, 0.0128, 0.0688},
      {"astrocyte-unleashed", 0.9406, 0.0145, 0.0773}, {"astrocyte-hierarchical", 0.9423, 0.0129, 0.1088},
      {"astrocyte-meanpool", 0.9407, 0.0142, 0.0658}};
  for (const Row& row : rows) {
    INFO(row.config);
    const Published& p = *published(row.config);
    EXPECT(p.accuracy == row.accuracy);
    EXPECT(p.first_layer == row.first);
    EXPECT(p.last_layer == row.last);
  }
  EXPECT(published("dense")->accuracy == 0.9431);
  EXPECT(published("dense-random-ffn")->accuracy == 0.9383);
}

TEST_CASE("summary: pairs are matched by seed, not by position") {
  Listing listing{"out", {}, {}};
  for (int seed : {0, 1, 2, 3}) listing.runs.push_back(fake_run("dense", seed, 0.90 + 0.01 * seed));
  // Seed 0 is missing: by seed the differences are 0.001, 0.001, 0.002; by position they would not be.
  for (int seed : {1, 2, 3})
    listing.runs.push_back(fake_run("astrocyte", seed, 0.901 + 0.01 * seed + (seed == 3 ? 0.001 : 0)));
  const Summary s = summarise(listing);
  // mean 0.0013333, sd 0.00057735, so t = 4 with df 2: p = 1 − 4/√18
  EXPECT(*s.find("astrocyte")->against("accuracy", "dense")->paired_p == doctest::Approx(1 - 4 / std::sqrt(18.0)));
  EXPECT(warns(s, "Missing: astrocyte has no run of seed 0"));
}

TEST_CASE("summary: one seed gives n/a everywhere, and says so") {
  TemporaryFolder tmp("summary-one");
  write_fake_results(tmp.path, 1, 4);
  const Summary s = summarise(tmp.path);
  EXPECT(warns(s, "One seed only"));
  EXPECT(warns(s, "Synthetic data (fake_news)"));
  EXPECT(warns(s, "best possible accuracy is 0.9700"));
  EXPECT(!s.find("astrocyte")->find("accuracy")->estimate.se);
  EXPECT(!s.find("astrocyte")->against("accuracy", "dense")->welch_p);
  const std::string text = print_table(s);
  EXPECT(contains(text, "±n/a"));
  EXPECT(!contains(text, "nan"));
  EXPECT(!contains(text, "inf"));
}

TEST_CASE("summary: failed, unfinished, foreign and mixed runs") {
  TemporaryFolder tmp("summary-bad");
  write_fake_results(tmp.path, 2, 4);
  write_failure(tmp.path + "/seed1/astrocyte", {"loss is not finite", 12});
  std::filesystem::remove(tmp.path + "/seed0/dense/eval.json");
  std::filesystem::remove_all(tmp.path + "/seed1/softmax-moe");
  std::filesystem::create_directories(tmp.path + "/seed1/notes");
  const Summary s = summarise(tmp.path);
  EXPECT(warns(s, "Failed: astrocyte of seed1: loss is not finite"));
  EXPECT(warns(s, "Not finished: dense of seed 0"));
  EXPECT(warns(s, "Missing: softmax-moe has no run of seed 1"));
  EXPECT(warns(s, "Not readable: " + tmp.path + "/seed1/notes: is no run"));
  EXPECT(contains(as_text(runs_table(s)), "unfinished"));
  write_summary(tmp.path, s);
  EXPECT(results_markdown(read_summary(tmp.path)) == results_markdown(s));
  EXPECT(contains(results_markdown(s), "| astrocyte | 0."));
  RunConfig paper = fake_config("astrocyte", 1);
  paper.protocol = "paper";
  write_fake_run(tmp.path, paper, 2);
  EXPECT(
      contains(error_of([&] { summarise(tmp.path); }), "must have the same protocol, got \"clean\" and \"paper\""));
}

TEST_CASE("summary: a foreign summary.json and an empty folder are named") {
  TemporaryFolder tmp("summary-foreign");
  EXPECT(contains(error_of([&] { summarise(tmp.path); }), "is no result folder"));
  std::filesystem::create_directories(tmp.path + "/seed0");
  EXPECT(contains(error_of([&] { summarise(tmp.path); }), "has no readable run"));
  EXPECT(contains(error_of([&] { summary_from(Json::object(), "s.json"); }), "s.json: is no summary"));
}

// For looking at pictures: GLIA_FAKE_RESULTS=/tmp/fake build/cpu/run_tests -ns -tc='*fake folder*'
DOCTEST_TEST_CASE("results: write a fake folder" * doctest::skip()) {
  if (const char* out = std::getenv("GLIA_FAKE_RESULTS")) write_fake_results(out, 5, 1000);
}
