// A run from its training to all that is said of it: traces on the way, predictions, analysis.json's keys, the report's tables.
#include "experiments/analysis/run_analysis.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "engine/core/file.h"
#include "experiments/analysis/agreement.h"
#include "experiments/analysis/trace_file.h"
#include "experiments/records/recompute.h"
#include "experiments/report/of_runs/analysis_values.h"
#include "experiments/report/of_runs/knock_out_table.h"
#include "experiments/report/of_runs/rows_table.h"
#include "experiments/report/report.h"
#include "experiments/report/significance.h"
#include "experiments/training/feed/data_source.h"
#include "experiments/training/presets.h"
#include "experiments/training/run.h"
#include "experiments/training/schedule.h"
#include "tests/records/saved_run.h"
#include "tests/temporary_folder.h"
#include "tests/test.h"
#include "tests/training/flag_words.h"

namespace fs = std::filesystem;
using namespace glia;
using namespace glia::test;

namespace {

Options small_options(const std::string& out, const std::string& more) {
  const std::vector<std::string> words = words_of(
      "run_all " + std::string(kTinyFlags) +
      "--layers 2 --progress off --synthetic-rows 160 --synthetic-test-rows 48 --vocab-size 400 --batch 8 --eval-batch 20 "
      "--epochs 1 --lr 0.003 --log-every 4 --eval-every 9 --difficulty 0.1 " +
      more);
  Options o =
      resolve(parse_command_line(static_cast<int>(words.size()), pointers_to(words).data(), Flag::kRunAll, ""));
  o.out = out;
  return o;
}

results::Run trained(const Options& o, const std::string& config, const Dataset& data, const char* study = "ahr") {
  Progress progress(Progress::Mode::kOff, stdout);
  Options options = o;
  options.configs = config;
  const RunSpec spec = plan_runs(options, find_study(study), {config}).at(0);
  const int id = progress.start(spec.title(), 1);
  REQUIRE(execute_run(spec, data, data_fingerprint(data), Device::cpu(), "test", progress, id).failure == "");
  return results::read_run(spec.folder);
}

int files_like(const std::string& folder, const std::string& start) {
  int count = 0;
  for (const auto& entry : fs::directory_iterator(folder))
    count += entry.path().filename().string().starts_with(start);
  return count;
}

void write_run(const std::string& out, const results::RunConfig& config, double accuracy) {
  const std::string folder = results::run_folder(out, config.seed_index, config.config);
  results::begin_run(folder, config, false);
  std::vector<results::LayerUtilisation> utilisation;
  results::Evaluation evaluation = fake_evaluation(config, utilisation);
  evaluation.values.set("accuracy", accuracy);
  results::write_evaluation(folder, evaluation, utilisation, config.data.class_names);
}

}  // namespace

TEST_CASE(
    "analysis of a run: a mixture without single experts is refused by run and name, before anything is read") {
  const TemporaryFolder out("run-soft");
  results::Run run = results::read_run(write_saved_run(out.path, plain_router()));
  for (const char* mixture : {"soft", "merged"}) {
    run.config.model["mixture"] = mixture;
    const std::string message = error_of([&] { analyse_run(run, Options(), Device::cpu(), true, 10); });
    INFO(message);
    EXPECT(message.starts_with("--knock-out: " + run.folder));
    EXPECT(contains(message, fmt::format("got the mixture {} ({})", mixture, run.config.config)));
    EXPECT(files_like(run.folder, "trace") == 0);
  }
}

TEST_CASE("analysis of a run: what tokens chose beside the experts stands in a table and in JSON") {
  const TemporaryFolder out("run-beside");
  const Options o = small_options(out.path, "");
  const results::Run run = trained(o, "moe-plus-plus", load_data(o), "zoo");
  Options saved = saved_options(run);
  saved.cache = "";
  const RunAnalysis a = analyse_run(run, saved, Device::cpu(), false, 5);
  EXPECT(a.columns == std::vector<std::string>{"zero", "copy", "constant 1", "constant 2"});
  REQUIRE(a.choices.size() == 2);
  std::vector<std::vector<std::string>> rows;
  for (const results::Table& table : all_tables(a))
    if (table.title == "Choices beside the experts") {
      EXPECT(table.header ==
             std::vector<std::string>{"layer", "experts", "zero", "copy", "constant 1", "constant 2"});
      rows = table.rows;
    }
  REQUIRE(rows.size() == 2);
  for (size_t l = 0; l < 2; ++l) {
    double sum = 0;
    for (size_t i = 1; i < rows[l].size(); ++i) sum += std::stod(rows[l][i]);
    EXPECT(std::abs(sum - 100) < 0.4);  // each is rounded
  }
  EXPECT(to_json(a)["choices"]["columns"] == results::Json(a.columns));
  EXPECT(to_json(a)["choices"]["layers"][0].size() == size_t(run.config.experts()) + 4);
}

TEST_CASE("analysis of a run: what was kept while it trained, and all that its model is asked afterwards") {
  const TemporaryFolder out("run-analysis"), plain("run-plain");
  const Options o = small_options(out.path, "--trace-rows 12");
  const Dataset data = load_data(o);
  const results::Run run = trained(o, "softmax-moe", data);
  const int kept = files_like(run.folder, "trace_step");
  EXPECT(kept >= 2);
  // Keeping traces changes nothing of the run.
  const results::Run without = trained(small_options(plain.path, ""), "softmax-moe", data);
  EXPECT(files_like(without.folder, "trace_step") == 0);
  for (const char* file : {"/config.json", "/eval.json", "/metrics.jsonl"})
    EXPECT(read_file(run.folder + file) == read_file(without.folder + file));

  Options saved = saved_options(run);
  saved.cache = "";
  const RunAnalysis a = analyse_run(run, saved, Device::cpu(), true, 5);
  REQUIRE(a.routing.layers.size() == 2);
  for (size_t l = 0; l < 2; ++l)  // the same as the run's own evaluation, counted another way
    for (const char* name : {"specialisation", "specialisation_cls", "load_cv", "gini"})
      EXPECT(a.routing.layers[l].metrics.scalar(name) ==
             doctest::Approx(run.evaluation->layers[l].scalar(name)).epsilon(1e-5));
  EXPECT(results::read_predictions(run.folder)->accuracy() == doctest::Approx(run.evaluation->accuracy()));
  REQUIRE(a.causal.has_value());
  EXPECT(a.causal->whole == doctest::Approx(run.evaluation->accuracy()));
  EXPECT(a.states.size() == 2);
  REQUIRE(a.saturation.size() == size_t(kept));
  for (const results::LayerAgreement& layer : a.saturation.back().layers) EXPECT(layer.same == doctest::Approx(1));
  EXPECT(a.saturation.front().step < a.saturation.back().step);
  results::Json json = to_json(a);
  for (const char* key : {"layers", "layer_pairs", "topic_probe", "knock_out", "states", "saturation"}) {
    INFO(key);
    EXPECT(json.contains(key));
  }
  EXPECT(all_tables(a).size() >= 8);
  EXPECT(pictures(a).back().name == "knock_out");
  write_file_atomic(run.folder + "/analysis.json", json.dump());
  const results::Listing listing = results::list_runs(out.path);
  const results::Table asked = results::knock_out_table(results::summarise(listing), listing);
  REQUIRE(asked.rows.size() == 1);
  EXPECT(asked.rows[0][5] == fmt::format("{:+.2f}", 100 * (a.causal->whole - a.causal->without_first)));
  // All of it is in the summary, with what chance would give.
  const results::TraceFile trace(run.folder + "/trace.safetensors");
  for (const char* other : {"elsewhere/seed1/softmax-moe", "elsewhere/seed0/softmax-moe", "seed1/astrocyte"}) {
    json["agreement"] = {{"trace", other}, {"layers", results::to_json(results::agreement(trace, trace, 2))}};
    write_file_atomic(run.folder + "/analysis.json", json.dump());
    const results::Summary s = results::summarise(listing);
    EXPECT((s.configs.at(0).find("seed_overlap") != nullptr) == std::string(other).starts_with("elsewhere/seed1"));
    if (!s.configs[0].find("seed_overlap")) continue;
    EXPECT(s.configs[0].find("topic_peak.2")->values.at(0) == a.routing.layers[1].metrics.scalar("topic_peak"));
    EXPECT(s.configs[0].find("topic_probe")->values.at(0) == a.routing.probe->accuracy);
    for (const results::MetricRow* row : results::metric_rows(results::Stage::analysis)) {
      INFO(row->name);
      REQUIRE(s.configs[0].find(row->name));
      REQUIRE(s.configs[0].find(results::chance_of(row->name)));
    }
    for (const results::MetricRow* row : results::metric_rows(results::Stage::routing))
      if (row->analysed && std::isfinite(a.routing.layers[0].metrics.scalar(row->name))) {
        INFO(row->name);
        EXPECT(s.configs[0].find(results::layer_metric(row->name, 1)));
        EXPECT((row->even || row->chance) ==
               (s.configs[0].find(results::chance_of(results::layer_metric(row->name, 1))) != nullptr));
      }
  }
  fs::remove(run.folder + "/analysis.json");

  // A part of the rows makes no predictions.csv, which is of all of them.
  fs::remove(run.folder + "/predictions.csv");
  saved.utilisation_rows = 10;
  const RunAnalysis part = analyse_run(run, saved, Device::cpu(), false, 5);
  EXPECT(part.routing.sequences == 10);
  EXPECT(!part.causal);
  EXPECT(!results::read_predictions(run.folder));
  // Begun anew, a run takes with it what was said of its old model.
  Options fresh = o;
  fresh.fresh = true, fresh.trace_rows = 0;
  trained(fresh, "softmax-moe", data);
  EXPECT(files_like(run.folder, "trace") == 0);
}

TEST_CASE(
    "analysis of a run: of a baseline without experts there are predictions, which the others' are paired with") {
  const TemporaryFolder out("run-dense");
  const Options o = small_options(out.path, "");
  const Dataset data = load_data(o);
  const results::Run dense = trained(o, "dense", data), routed = trained(o, "softmax-moe", data);
  const auto saved = [](const results::Run& run) {
    Options options = saved_options(run);
    options.cache = "";
    return options;
  };
  EXPECT(predict_run(dense, saved(dense), Device::cpu()).accuracy() ==
         doctest::Approx(dense.evaluation->accuracy()));
  EXPECT(results::read_predictions(dense.folder)->labels == data.test.labels);
  EXPECT(contains(error_of([&] { predict_run(routed, saved(routed), Device::cpu()); }),
                  "expected a classifier without experts"));
}

TEST_CASE("analysis of a run: what experts are for in a model of words is told in nats") {
  struct Case {
    const char *flags, *value, *topic_key, *title;
    Causal::Measure measure;
  };
  const Case cases[] = {
      {"--task causal_lm --prompt sentence", "word_loss", "topic_word_loss", "Nats a word lost",
       Causal::Measure::kNatsAWord},
      {"--task masked_lm", "loss", "topic_loss", "Nats a masked piece lost", Causal::Measure::kNatsAPiece}};
  for (const Case& test : cases) {
    INFO(test.flags);
    const TemporaryFolder out("words-analysis");
    const Options o = small_options(out.path, test.flags);
    const Dataset data = load_data(o);
    const results::Run run = trained(o, "softmax-moe", data);
    Options saved = saved_options(run);
    saved.cache = "";
    const RunAnalysis a = analyse_run(run, saved, Device::cpu(), true, 5);
    REQUIRE(a.causal.has_value());
    const Causal& c = *a.causal;
    EXPECT(c.measure == test.measure);
    EXPECT(c.masked);
    EXPECT(c.rows == data.test.size());
    EXPECT(c.whole == doctest::Approx(run.evaluation->values.get(test.value)).epsilon(1e-5));
    EXPECT(*std::ranges::min_element(c.topic_whole) < c.whole);
    EXPECT(*std::ranges::max_element(c.topic_whole) > c.whole);
    for (int topic = 0; topic < c.kept_alone.rows; ++topic)  // with all experts nothing is taken away
      if (test.measure == Causal::Measure::kNatsAWord)       // other batches have other words masked
        EXPECT(c.kept_alone(topic, c.kept_alone.cols - 1) ==
               doctest::Approx(c.topic_whole[size_t(topic)]).epsilon(1e-5));
    // The same by the task's own meter, of a model whose router is spoilt by hand.
    with_evaluator(run, saved, Device::cpu(), [&](Model& model, Evaluator& evaluator, const Dataset&) {
      Tensor bias = model.parameters().find("encoder.layer.1.moe.router.token.bias")->var.value();
      std::vector<float> values = bias.to_vector<float>();
      values[2] = -1e9f;
      bias.copy_from(from_vector(model.context(), values, bias.shape(), bias.dtype()));
      const double spoilt = evaluator.measure().values.get(test.value);
      EXPECT(spoilt != doctest::Approx(c.whole).epsilon(1e-7));  // else this shows nothing
      EXPECT(c.lost[1][2] == doctest::Approx(spoilt - c.whole).epsilon(1e-2).scale(std::abs(spoilt - c.whole)));
      return 0;
    });
    EXPECT(a.states.size() == 2);
    EXPECT(!results::read_predictions(run.folder));  // there are no topics to predict
    EXPECT(to_json(a)["knock_out"].contains(test.topic_key));
    const std::vector<results::Table> tables = all_tables(a);
    EXPECT(std::ranges::any_of(tables, [&](const results::Table& t) { return contains(t.title, test.title); }));
  }
}

TEST_CASE("analysis of a run: an expert that no bias can hide is taken out of a language model's sums") {
  const TemporaryFolder out("hash-analysis");
  const Options o = small_options(out.path, "--task causal_lm");
  const Dataset data = load_data(o);
  const results::Run run = trained(o, "hash", data, "causal");
  Options saved = saved_options(run);
  saved.cache = "", saved.utilisation_rows = 20;
  const Causal c = *analyse_run(run, saved, Device::cpu(), true, 5).causal;
  EXPECT(!c.masked);
  EXPECT(c.rows == 20);
  double most = 0;
  for (const std::vector<double>& layer : c.lost)
    for (const double lost : layer) most = std::max(most, std::abs(lost));
  EXPECT(std::isfinite(most));
  EXPECT(most > 0);
}

TEST_CASE("report: intervals over test rows, equivalence and power stand in tables of their own") {
  const TemporaryFolder out("referee");
  results::Listing listing;
  std::vector<std::string> configs = {"dense", "softmax-moe"};
  for (int seed = 0; seed < 4; ++seed)
    for (const std::string& config : configs) {
      write_run(out.path, fake_config(config, seed, 2, 4), 0.90 + 0.001 * seed + (config == "dense" ? 0.002 : 0));
      results::Predictions p;
      for (int row = 0; row < 100; ++row) {
        p.labels.push_back(row % 4);
        p.predicted.push_back(row < (config == "dense" ? 10 : 12) + seed ? (row + 1) % 4 : row % 4);
      }
      results::write_predictions(results::run_folder(out.path, seed, config), p);
    }
  listing = results::list_runs(out.path);
  const results::Summary s = results::summarise(listing);
  const results::Table rows = results::test_rows_table(s, listing), tests = results::significance_table(s),
                       power = results::power_table(s);
  REQUIRE(rows.rows.size() == 2);
  EXPECT(rows.rows[0][1] == "4");
  EXPECT(rows.rows[0][2] == "88.50");
  EXPECT(rows.rows[1][4] == "-2.00");
  // Row by row five differ, by a quarter or half of the seeds: a deviation of 0.0914, not of 0.31 as of rows that are not paired.
  const std::string& interval = rows.rows[1][5];
  EXPECT(std::abs(std::stod(interval) + 2 + 1.96 * 0.914) < 0.3);
  EXPECT(std::abs(std::stod(interval.substr(interval.find("…") + std::string("…").size())) + 2 - 1.96 * 0.914) <
         0.3);
  REQUIRE(tests.rows.size() == 1);
  EXPECT(tests.rows[0][0] == "softmax-moe");
  EXPECT(tests.rows[0][1] == "-0.20");
  EXPECT(tests.rows[0].back() == "equivalent");
  results::Summary narrow = s;
  narrow.margin = 0.0005;
  EXPECT(results::significance_table(narrow).rows[0].back() == "undecided");
  REQUIRE(power.rows.size() == 2);
  EXPECT(power.rows[0][1] == "0.0013");
  const std::string page = results::report_html(s, listing);
  for (const results::Table* table : {&rows, &tests, &power}) EXPECT(contains(page, table->title));
  // Two seeds give no test, and a line says why.
  for (int seed : {2, 3}) fs::remove_all(fmt::format("{}/seed{}", out.path, seed));
  const results::Table few = results::significance_table(results::summarise(out.path));
  EXPECT(few.rows.empty());
  EXPECT(contains(few.note, "fewer than 3 seeds, or seeds that do not differ, give no test"));
}
