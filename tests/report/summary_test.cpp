#include "experiments/report/summary.h"
#include "experiments/report/report.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "experiments/report/answer.h"
#include "experiments/report/compare.h"
#include "experiments/report/significance.h"
#include "experiments/report/tables.h"
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
  run.evaluation->values.set("accuracy", accuracy);
  run.timing["seconds"] = 100.0;
  return run;
}

bool warns(const Summary& s, const std::string& part) {
  return std::ranges::any_of(s.warnings, [&](const auto& w) { return contains(w, part); });
}

}  // namespace

TEST_CASE("summary: routed padding is told where the protocol does not imply it") {
  for (const bool padded : {false, true})
    for (const char* protocol : {"clean", "paper"}) {
      Listing listing{"out", built_in_studies().front(), {}, {}};
      listing.runs.push_back(fake_run(listing.study.routing_baseline(), 0, 0.9));
      RunConfig& config = listing.runs[0].config;
      config.protocol = protocol, config.options["padding"] = padded ? "padded" : "packed";
      EXPECT(warns(summarise(listing), "Padded batches:") == (padded && std::string(protocol) == "clean"));
    }
}

TEST_CASE("summary: estimates, tests and Holm families over the configurations") {
  Listing listing{"out", built_in_studies().front(), {}, {}};
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
  EXPECT(*smaller.welch_holm == doctest::Approx(2 * *smaller.welch_p).scale(1e-6));
  EXPECT(*vs.paired_p > *smaller.paired_p);
  EXPECT(*vs.paired_holm == *vs.paired_p);
  EXPECT(*smaller.paired_holm == 2 * *smaller.paired_p);
  EXPECT(s.find("dense")->find("accuracy")->vs.size() == 1);  // against softmax-moe only
  EXPECT(c.against("specialisation.4", "softmax-moe")->welch_p.has_value());
  EXPECT(!c.against("specialisation.4", "dense"));
  EXPECT(s.layers == 4);
  EXPECT(s.seconds == 1500);
  for (const Run& run : listing.runs)  // each layer's each number under its own name
    for (size_t l = 0; l < run.evaluation->layers.size(); ++l) {
      const LayerMetrics& m = run.evaluation->layers[l];
      for (const MetricRow* row : metric_rows(Stage::routing)) {
        INFO(row->name);
        if (row->form != Form::scalar || m[row->name].values.empty()) continue;
        const Metric* metric = s.find(run.config.config)->find(layer_metric(row->name, int(l) + 1));
        REQUIRE(metric);
        EXPECT(metric->values.at(size_t(run.config.seed_index)) == m.scalar(row->name));
      }
    }
  EXPECT(contains(as_text(accuracy_table(s)), "0.9423 ±0.0003"));
  EXPECT(contains(accuracy_answer(s),
                  "these differ from dense beyond chance (Welch, Holm-corrected, 5 seeds): softmax-moe (-2.6"));
  EXPECT(contains(accuracy_answer(s), "astrocyte (-0.08 points, p = 0.047)"));
  EXPECT(contains(routing_answer(s), "the last layer's specialisation"));
  EXPECT(to_json(summary_from(to_json(s), "x")) == to_json(s));
}

// Else a router would specialise by what its gates happen to sum to.
TEST_CASE("summary: of gates that do not sum to 1 it is their shares that are compared") {
  Listing listing{"out", built_in_studies().front(), {}, {}};
  for (int seed = 0; seed < 5; ++seed) {
    listing.runs.push_back(fake_run("softmax-moe", seed, 0.9));
    listing.runs.push_back(fake_run("astrocyte", seed, 0.9));
    std::vector<LayerMetrics>&sums = listing.runs[listing.runs.size() - 2].evaluation->layers,
    &ours = listing.runs.back().evaluation->layers;
    for (size_t l = 0; l < ours.size(); ++l) {
      sums[l]["specialisation"] = MetricValue(0.1 + 0.001 * seed);
      ours[l]["specialisation"] = MetricValue(0.4 + 0.001 * seed);  // gates that sum to 4
      ours[l]["specialisation_mass"] = MetricValue(0.1 + 0.001 * seed);
    }
  }
  const Summary s = summarise(listing);
  const ConfigSummary& c = *s.find("astrocyte");
  EXPECT(*c.find("specialisation.4")->estimate.mean == doctest::Approx(0.402));  // the table Routing by layer
  EXPECT(*c.find("specialisation_share.4")->estimate.mean == doctest::Approx(0.102));
  EXPECT(s.find("softmax-moe")->find("specialisation_share.4")->values ==
         s.find("softmax-moe")->find("specialisation.4")->values);
  EXPECT(*c.against("specialisation_share.4", "softmax-moe")->welch_p == doctest::Approx(1));
  EXPECT(contains(routing_answer(s), "no configuration differs from softmax-moe"));
  const std::string table = as_text(specialisation_tables(s)[0]);
  EXPECT(contains(table, "0.1020"));
  EXPECT(!contains(table, "0.4020"));
  EXPECT(contains(specialisation_tables(s)[0].note, "over each token's sum"));
  for (Run& run : listing.runs)
    for (LayerMetrics& m : run.evaluation->layers) m["specialisation_mass"] = MetricValue();
  EXPECT(!contains(specialisation_tables(summarise(listing))[0].note, "over each token's sum"));
}

TEST_CASE("summary: pairs are matched by seed, not by position") {
  Listing listing{"out", built_in_studies().front(), {}, {}};
  for (int seed : {0, 1, 2, 3}) listing.runs.push_back(fake_run("dense", seed, 0.90 + 0.01 * seed));
  // Seed 0 is missing: by seed the differences are 0.001, 0.001, 0.002; by position they would not be.
  for (int seed : {1, 2, 3})
    listing.runs.push_back(fake_run("astrocyte", seed, 0.901 + 0.01 * seed + (seed == 3 ? 0.001 : 0)));
  const Summary s = summarise(listing);
  // mean 0.0013333, sd 0.00057735, so t = 4 with df 2: p = 1 − 4/√18
  EXPECT(*s.find("astrocyte")->against("accuracy", "dense")->paired_p == doctest::Approx(1 - 4 / std::sqrt(18.0)));
  EXPECT(warns(s, "Missing: astrocyte has no run of seed 0"));
}

TEST_CASE("summary: seeds that do not differ have no spread, and no difference leaves its range") {
  Listing listing{"out", built_in_studies().front(), {}, {}};
  const double guessed[] = {0, 0, 0.001};
  for (int seed = 0; seed < 3; ++seed) {
    listing.runs.push_back(fake_run("dense", seed, guessed[seed]));
    listing.runs.push_back(fake_run("astrocyte", seed, 0.95));  // their mean is not 0.95 to the last bit
    listing.runs.push_back(fake_run("softmax-moe", seed, 1 - guessed[seed]));
  }
  const Summary s = summarise(listing);
  EXPECT(*s.find("astrocyte")->find("accuracy")->estimate.sd == 0);
  for (const auto& row : power_table(s).rows) EXPECT(row[0] != "astrocyte");
  EXPECT(power_table(s).rows.size() == 2);
  const Comparison* far = s.find("softmax-moe")->against("accuracy", "dense");
  REQUIRE(far);
  EXPECT(*far->ci_low > 0.99);
  EXPECT(*far->ci_high == 1);
  const Table table = significance_table(s);
  REQUIRE(table.rows.size() == 2);
  for (const auto& row : table.rows) {
    INFO(row[0], " ", row[5]);
    EXPECT(row[5].ends_with("…+100.00") == (row[0] == "softmax-moe"));
  }
}

TEST_CASE("summary: the answer counts the seeds that there are") {
  Listing listing{"out", built_in_studies().front(), {}, {}};
  const double values[] = {0.94, 0.95, 0.96, 0.93, 0.945};
  for (int seed = 0; seed < 5; ++seed) {
    if (seed != 1) listing.runs.push_back(fake_run("dense", seed, values[seed]));
    if (seed != 2) listing.runs.push_back(fake_run("astrocyte", seed, values[seed] + 0.001));
  }
  EXPECT(contains(accuracy_answer(summarise(listing)), "p < 0.05, 4 seeds)"));
  listing.runs.pop_back();
  EXPECT(contains(accuracy_answer(summarise(listing)), "p < 0.05, 3 to 4 seeds)"));
}

TEST_CASE("summary: one seed gives n/a everywhere, and says so") {
  TemporaryFolder tmp("summary-one");
  write_fake_results(tmp.path, 1, 4);
  const Summary s = summarise(tmp.path);
  EXPECT(warns(s, "One seed only"));
  EXPECT(warns(s, "Synthetic data (ag_news)"));
  EXPECT(warns(s, "best possible accuracy is 0.9700"));
  EXPECT(!s.find("astrocyte")->find("accuracy")->estimate.se);
  EXPECT(!s.find("astrocyte")->against("accuracy", "dense")->welch_p);
  const std::string text = print_table(s);
  EXPECT(contains(text, "±n/a"));
  EXPECT(!contains(text, "nan"));
  EXPECT(!contains(text, "inf"));
}

TEST_CASE("summary: the verdict goes by Holm's p, and what the seeds can show by their own deviation") {
  Listing listing{"out", built_in_studies().front(), {}, {}};
  const double dense[] = {0.9431, 0.9433, 0.9428, 0.9436, 0.9427},
               less[] = {0.9423, 0.9431, 0.9418, 0.9427, 0.9415};
  for (int seed = 0; seed < 5; ++seed) {
    listing.runs.push_back(fake_run("dense", seed, dense[seed]));
    listing.runs.push_back(fake_run("astrocyte", seed, less[seed]));  // p 0.0473
    listing.runs.push_back(fake_run("softmax-moe", seed, dense[4 - seed]));
  }
  Summary s = summarise(listing);
  s.margin = 0.0006;
  const Table table = significance_table(s);
  const auto row = std::ranges::find_if(table.rows, [](const auto& r) { return r[0] == "astrocyte"; });
  REQUIRE((row != table.rows.end()));
  EXPECT((*row)[2] == "0.095");  // twice
  EXPECT(row->back() == "undecided");
  // sd 0.000367; of 150,000 pairs of five normal numbers that are 0.0006 / sd apart 0.623 had |t| > 2.306
  const Table power = power_table(s);
  const auto now = std::ranges::find_if(power.rows, [](const auto& r) { return r[0] == "dense"; });
  REQUIRE((now != power.rows.end()));
  EXPECT((*now)[1] == "0.0004");
  EXPECT((*now)[2] == "0.62");
}

TEST_CASE("summary: two seeds give no interval and no test, and a line says what five would give") {
  Listing listing{"out", built_in_studies().front(), {}, {}};
  for (int seed : {0, 1}) {
    listing.runs.push_back(fake_run("dense", seed, 0.90 + 0.02 * seed));
    listing.runs.push_back(fake_run("softmax-moe", seed, 0.91));
  }
  Summary s = summarise(listing);
  EXPECT(s.find("dense")->find("accuracy")->estimate.se.has_value());
  EXPECT(!s.find("dense")->find("accuracy")->estimate.ci_low);
  EXPECT(!s.find("softmax-moe")->against("accuracy", "dense")->welch_p);
  EXPECT(!s.find("softmax-moe")->against("accuracy", "dense")->paired_p);
  // sd 0.01414 and 0: pooled 0.01; t(0.975, 8) = 2.306, times 0.01 · √(2/5)
  EXPECT(warns(s, "Five would tell accuracies apart that differ by about 1.46 points"));
  // A third seed: an interval of a share stays a share.
  listing.runs.push_back(fake_run("dense", 2, 0.999));
  s = summarise(listing);
  const Comparison& uneven = *s.find("softmax-moe")->against("accuracy", "dense");  // two seeds against three
  EXPECT(!uneven.welch_p);
  EXPECT(!uneven.cohen_d);
  const auto& e = s.find("dense")->find("accuracy")->estimate;
  EXPECT(*e.ci_high == 1);
  EXPECT(*e.ci_low > 0);
  // Two that are equal do not tell how far others would lie apart.
  listing.runs.clear();
  for (int seed : {0, 1}) listing.runs.push_back(fake_run("dense", seed, 0.25));
  s = summarise(listing);
  EXPECT(warns(s, "--seeds 5 adds what they need."));
  EXPECT(!warns(s, "Five would tell"));
}

TEST_CASE("summary: a run that is stuck or guesses is named") {
  Listing listing{"out", built_in_studies().front(), {}, {}};
  for (int seed : {0, 1, 2}) {
    listing.runs.push_back(fake_run("dense", seed, seed == 1 ? 0.72 : 0.93));
    listing.runs.push_back(fake_run("softmax-moe", seed, seed == 2 ? 0.26 : 0.92));
    listing.runs.push_back(fake_run("astrocyte", seed, 0.80 + 0.001 * seed));
    listing.runs.push_back(fake_run("astrocyte-meanpool", seed, 0.90));
  }
  const Summary s = summarise(listing);
  EXPECT(warns(s, "Stuck: dense of seed1 has accuracy 0.7200, the best seed of that configuration 0.9300"));
  EXPECT(warns(s, "At chance: softmax-moe of seed2 has accuracy 0.2600 with 4 topics"));
  EXPECT(warns(s, "Far below: astrocyte of seed0 has accuracy 0.8000, the best run 0.9300"));
  EXPECT(!warns(s, "astrocyte-meanpool"));
  EXPECT(!warns(s, "dense of seed0"));
  // Of words a quarter right is no chance.
  for (auto& run : listing.runs) run.config.train["task"] = "causal_lm";
  const Summary words = summarise(listing);
  EXPECT(!warns(words, "At chance"));
  EXPECT(accuracy_tables(words)[0].title == "Test accuracy");
  // A language model's report begins with its loss; a seed that one configuration lacks is said.
  listing.runs.erase(listing.runs.begin());
  for (auto& run : listing.runs) run.evaluation->values.set("word_loss", 4.0);
  const Summary told = summarise(listing);
  EXPECT(contains(accuracy_tables(told)[0].title, "Loss a word"));
  const std::string page = report_html(told, listing);
  EXPECT(contains(page, "<a href=\"#accuracy\">Loss</a>"));
  EXPECT(contains(page, "What a word of the test text costs."));
  EXPECT(!contains(page, "(last), CLS rows only"));
  EXPECT(contains(accuracy_answer(told), "In the loss a word"));
  EXPECT(warns(words, "Stuck: softmax-moe of seed2"));
}

TEST_CASE("summary: published numbers stand beside their own data set only; a topic without rows is named") {
  Listing listing{"out", built_in_studies().front(), {}, {}};
  listing.runs.push_back(fake_run("dense", 0, 0.9));
  listing.runs.push_back(fake_run("softmax-moe", 0, 0.9));
  EXPECT(contains(as_text(accuracy_table(summarise(listing))), "0.9411"));
  for (Run& run : listing.runs) run.config.data.name = "csv", run.evaluation->class_accuracy[1] = std::nan("");
  const Summary s = summarise(listing);
  const std::string text = results_markdown(s);
  for (const char* number : {"0.9411", "0.9431", "published", "0.0588"}) EXPECT(!contains(text, number));
  EXPECT(warns(s, "The test rows have none of the topic Sports"));
}

TEST_CASE("compare: two folders side by side, what differs named") {
  Listing a{"a", built_in_studies().front(), {}, {}}, b = a;
  b.out = "b";
  for (int seed : {0, 1, 2}) {
    a.runs.push_back(fake_run("softmax-moe", seed, 0.90 + 0.001 * seed));
    b.runs.push_back(fake_run("softmax-moe", seed, 0.95 + 0.001 * seed));
    b.runs.back().config.protocol = "paper";
    b.runs.push_back(fake_run("dense", seed, 0.95));
    b.runs.back().config.protocol = "paper";
  }
  const Summary x = summarise(a), y = summarise(b);
  const Table differs = provenance_difference(x, y), table = side_by_side(x, y);
  EXPECT(differs.rows[0][0] == "Protocol");
  REQUIRE(table.rows.size() == 1);
  EXPECT(table.rows[0][1] == "0.9010 ±0.0006");
  EXPECT(table.rows[0][3] == "+0.0500");
  EXPECT(table.rows[0][4] == "<0.001");
  EXPECT(provenance_difference(x, x).rows[0][0] == "nothing");
  std::erase_if(b.runs, [](const Run& run) { return run.config.config != "dense"; });
  EXPECT(contains(error_of([&] { side_by_side(x, summarise(b)); }), "a and b: have no configuration in common"));
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

TEST_CASE("tables: a name with what Markdown ends cells or begins tags with stays one cell, and text") {
  Table t{"t", "", {"topic", "a|b", "<b>c</b>"}, {{"x", "<0.001", "0.9396 *"}}};
  const std::string text = as_markdown(t);
  EXPECT(contains(text, "| topic | a\\|b | &lt;b>c&lt;/b> |"));
  EXPECT(contains(text, "| x | <0.001 | 0.9396 * |"));
}
