// Tables of what routers do and cost: chance beside it, and what tools/analyse has said of the runs.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "engine/core/file.h"
#include "experiments/records/routing/routing_shares.h"
#include "experiments/report/grid.h"
#include "experiments/report/of_runs/analysis_values.h"
#include "experiments/report/report.h"
#include "experiments/report/tables.h"
#include "tests/records/fake_results.h"
#include "tests/test.h"

using namespace glia;
using namespace glia::results;
using namespace glia::test;

namespace {

Run fake_run(const std::string& config, int seed, int experts = 8) {
  Run run;
  run.folder = fmt::format("seed{}/{}", seed, config);
  run.config = fake_config(config, seed, 2, experts);
  run.state = RunState::done;
  std::vector<LayerUtilisation> utilisation;
  run.evaluation = fake_evaluation(run.config, utilisation);
  return run;
}

std::string cell(const Table& t, const std::string& name, const std::string& column, size_t nth = 0) {
  const auto at = std::ranges::find(t.header, column) - t.header.begin();
  REQUIRE(at < std::ssize(t.header));
  for (const auto& row : t.rows)
    if (row[0] == name && nth-- == 0) return row[size_t(at)];
  return "no such row";
}

// A finished run of two layers whose analysis.json has these numbers in its first layer, a tenth more in the second.
void write_analysed(const std::string& out, int seed, double topic, double agree, double saturation) {
  write_fake_run(out, fake_config("softmax-moe", seed, 2, 8), 4);
  const std::string folder = run_folder(out, seed, "softmax-moe");
  write_file_atomic(folder + "/analysis.json", fmt::format(R"({{"tokens": 1000, "layers": [
  {{"metrics": {{"topic_peak": {0}, "gate_margin": 0.25, "batch_violation": null}}, "chance": {{"topic_peak": 0.25}}}},
  {{"metrics": {{"topic_peak": {1}, "gate_margin": 0.35}}, "chance": {{"topic_peak": 0.25}}}}],
 "layer_pairs": [{{"layers": [1, 2], "matched_overlap": {2}, "matched_overlap_permuted": 0.15,
                  "normalised_information": 0.125, "normalised_information_permuted": 0}}],
 "topic_probe": {{"accuracy": 0.875, "chance": 0.25}},
 "agreement": {{"trace": "other/seed9/softmax-moe", "layers": [{{"matched_overlap": {3}, "matched_overlap_permuted": 0.2}},
                                                             {{"matched_overlap": {3}, "matched_overlap_permuted": 0.2}}]}},
 "saturation": [{{"step": 0, "layers": [{{"saturation": 0.1}}, {{"saturation": 0.1}}]}},
                {{"step": 40, "layers": [{{"saturation": {3}, "saturation_chance": 0.25}},
                                         {{"saturation": {3}, "saturation_chance": 0.25}}]}},
                {{"step": 70, "layers": [{{"saturation": 0.9}}, {{"saturation": 0.9}}]}},
                {{"step": 100, "layers": [{{"saturation": 1}}, {{"saturation": 1}}]}}]}})",
                                                           topic, topic + 0.1, agree, saturation));
}

}  // namespace

TEST_CASE("report: each number of experts has its row of even use") {
  Listing listing{"out", built_in_studies().front(), {}, {}};
  for (int seed : {0, 1, 2}) {
    listing.runs.push_back(fake_run("dense", seed));
    listing.runs.push_back(fake_run("softmax-moe", seed, 8));
    listing.runs.push_back(fake_run("astrocyte", seed, 2));
  }
  const Summary s = summarise(listing);
  const Table t = routing_table(s);
  EXPECT(cell(t, "(even use, E = 2)", "effective") == "2.00");
  EXPECT(cell(t, "(even use, E = 8)", "effective") == "8.00");
  EXPECT(cell(t, "(even use, E = 2)", "largest") == "0.500");
  EXPECT(cell(t, "(even use, E = 8)", "entropy") == "3.00");
  EXPECT(cell(t, "(even use, E = 8)", "MaxVio") == "0.000");
  EXPECT(routing_table(summary_from(to_json(s), "x")).rows == t.rows);
  for (Run& run : listing.runs)
    if (run.config.config == "astrocyte") run = fake_run("astrocyte", run.config.seed_index, 8);
  const Summary same = summarise(listing);
  EXPECT(cell(routing_table(same), "(even use)", "effective") == "8.00");
  EXPECT(routing_table(same).rows.size() == 1 + 2 * 2);
  // A file from before each configuration had its number has one for all of them.
  Json old = to_json(same);
  for (Json& config : old["configs"]) config.erase("experts");
  old["experts"] = 8;
  EXPECT(routing_table(summary_from(old, "x")).rows == routing_table(same).rows);
}

TEST_CASE("report: what a token costs stands beside every router, time apart from what does not change") {
  const TemporaryFolder out("cost");
  for (int seed : {0, 1}) {
    write_fake_run(out.path, fake_config("dense", seed, 2, 8), 4);
    const RunConfig config = fake_config("softmax-moe", seed, 2, 8);
    write_fake_run(out.path, config, 4);
    const std::string folder = run_folder(out.path, seed, "softmax-moe");
    std::vector<LayerUtilisation> utilisation;
    Evaluation evaluation = fake_evaluation(config, utilisation);
    evaluation.values.set(kActiveParameters, 21.0e6 + 2e6 * seed);
    evaluation.values.set(kFlops, 42.5e6);
    write_evaluation(folder, evaluation, utilisation, config.data.class_names);
    write_timing(folder, {{"seconds", 20.0 + 2 * seed}, {"ms_per_step", 4.0 + seed}, {"parameters", 87574052}});
  }
  const Summary s = write_report(out.path);
  const Table t = cost_table(s, true);
  EXPECT(t.rows.at(1) == std::vector<std::string>{"softmax-moe", "87.574", "22.000", "42.500", "4.50", "21.0"});
  EXPECT(cell(t, "dense", "MFLOP a token") == "–");  // from before anybody counted
  EXPECT(cell(t, "dense", "ms a step") == "–");
  EXPECT(contains(print_table(s), "MFLOP a token"));
  // The Markdown is made of the files.
  EXPECT(cost_table(read_summary(out.path), true).rows == t.rows);
  EXPECT(contains(results_markdown(read_summary(out.path)),
                  "| softmax-moe | 87.574 | 22.000 | 42.500 | 4.50 | 21.0 |"));
  const std::string page = read_file(out.path + "/report.html");
  EXPECT(contains(page, "MFLOP a token"));
  EXPECT(!contains(page, "ms a step"));
  Summary none = s;
  for (RunLine& run : none.runs) run.parameters = run.step_ms = {};
  for (ConfigSummary& c : none.configs) c.metrics.erase(kActiveParameters), c.metrics.erase(kFlops);
  EXPECT(cost_table(none, true).rows.empty());
}

TEST_CASE("report: what tools/analyse said of the runs, over seeds and with chance beside it") {
  const TemporaryFolder out("analysed");
  write_analysed(out.path, 0, 0.5, 0.3, 0.6);
  write_analysed(out.path, 1, 0.6, 0.3, 0.7);
  write_fake_run(out.path, fake_config("astrocyte", 0, 2, 8), 4);
  const Summary two = summarise(out.path);
  EXPECT(cell(analysed_layers_table(two), "softmax-moe", "topic") == "0.550");  // two seeds have no interval
  write_analysed(out.path, 2, 0.7, 0.3, 0.8);
  const Summary s = write_report(out.path);
  const Table layers = analysed_layers_table(s), runs = analysed_runs_table(s);
  REQUIRE(layers.rows.size() == 2);  // nobody has asked astrocyte
  EXPECT(cell(layers, "softmax-moe", "seeds") == "3");
  EXPECT(cell(layers, "softmax-moe", "topic") == "0.600 ±0.248");  // t 4.303 · 0.1 / √3
  EXPECT(cell(layers, "softmax-moe", "topic", 1) == "0.700 ±0.248");
  EXPECT(cell(layers, "softmax-moe", "topic, chance") == "0.250");
  EXPECT(cell(layers, "softmax-moe", "margin", 1) == "0.350 ±0.000");
  EXPECT(std::ranges::find(layers.header, "margin, chance") == layers.header.end());
  EXPECT(std::ranges::find(layers.header, "MaxVio, batch") == layers.header.end());  // n/a everywhere
  REQUIRE(runs.rows.size() == 1);
  EXPECT(cell(runs, "softmax-moe", "layers agree") == "0.300 ±0.000");
  EXPECT(cell(runs, "softmax-moe", "layers agree, chance") == "0.150");
  EXPECT(cell(runs, "softmax-moe", "topic probe, chance") == "0.250");
  EXPECT(cell(runs, "softmax-moe", "saturation") == "0.700 ±0.248");  // of step 40 of 100
  EXPECT(cell(runs, "softmax-moe", "saturation, chance") == "0.250");
  EXPECT(cell(runs, "softmax-moe", "seeds agree") == "0.700");  // with one seed in common there is no interval
  EXPECT(cell(runs, "softmax-moe", "seeds agree, chance") == "0.200");
  // Each stands in its own tables alone, and in all of the report's forms.
  const Table routing = routing_table(s);
  EXPECT(std::ranges::find(routing.header, "topic") == routing.header.end());
  EXPECT(!any_mass(s));
  const std::string csv = read_file(out.path + "/summary.csv"), page = read_file(out.path + "/report.html"),
                    markdown = results_markdown(read_summary(out.path));
  for (const char* line : {"\nsoftmax-moe,topic_peak.2,3,0.", "\nsoftmax-moe,topic_peak_chance.2,3,0.25,",
                           "\nsoftmax-moe,layer_overlap,3,", "\nsoftmax-moe,saturation.1,3,"})
    EXPECT(contains(csv, line));
  for (const Table* table : {&layers, &runs}) {
    EXPECT(contains(page, "<h3>" + table->title));
    EXPECT(contains(markdown, "### " + table->title));
  }
  EXPECT(contains(page, "href=\"#analysis\""));
  EXPECT(contains(print_table(s), runs.title));
  EXPECT(to_json(summary_from(to_json(s), "x")) == to_json(s));
}

TEST_CASE("report: an analysis that cannot be read, or is of other rows, is told above the tables") {
  const TemporaryFolder out("analysed-badly");
  write_analysed(out.path, 0, 0.5, 0.3, 0.6);
  write_analysed(out.path, 1, 0.5, 0.3, 0.6);
  const auto warned = [&](const std::string& text) {
    return std::ranges::any_of(summarise(out.path).warnings,
                               [&](const std::string& warning) { return contains(warning, text); });
  };
  const std::string path = run_folder(out.path, 1, "softmax-moe") + "/analysis.json", whole = read_file(path);
  EXPECT(!warned("analysed"));
  std::string part = whole;
  part.replace(part.find("1000"), 4, "500");
  write_file_atomic(path, part);
  EXPECT(warned("analysed on 500 to 1000 tokens"));
  write_file_atomic(path, R"({"tokens": 1000, "layers": [{"metrics": {}, "chance": {}}]})");
  EXPECT(warned("Not readable: " + path + ": expected what tools/analyse writes, got 1 layers of 2"));
  write_file_atomic(path, R"({"tokens": "many"})");
  EXPECT(warned("Not readable: " + path + ": expected what tools/analyse writes, got"));
  EXPECT(cell(analysed_layers_table(summarise(out.path)), "softmax-moe", "topic") == "0.500");  // of the other seed
  write_file_atomic(path, "{");
  EXPECT(warned("Not readable: " + path));
}
