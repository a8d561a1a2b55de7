#include <cmath>
#include <filesystem>
#include <fstream>

#include "engine/core/file.h"
#include "engine/core/random/rng.h"
#include "experiments/report/summary.h"
#include "moe/router.h"
#include "tests/records/fake_results.h"
#include "tests/test.h"

using namespace glia;
using namespace glia::results;
using namespace glia::test;
namespace fs = std::filesystem;

namespace {

void put(const std::string& path, const std::string& text) {
  fs::create_directories(fs::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

Matrix matrix(int rows, int cols, std::vector<double> values) {
  Matrix m(rows, cols);
  m.values = std::move(values);
  return m;
}

}  // namespace

TEST_CASE("routing metrics: values by hand") {
  const Matrix perfect = matrix(2, 2, {1, 0, 0, 1});
  EXPECT(*specialisation(perfect) == doctest::Approx(0.5));
  EXPECT(*mutual_information_bits(perfect) == doctest::Approx(1));
  const Matrix same = matrix(3, 4, {.1, .2, .3, .4, .1, .2, .3, .4, .1, .2, .3, .4});
  EXPECT(*specialisation(same) == doctest::Approx(0));
  EXPECT(*mutual_information_bits(same) == doctest::Approx(0));
  // By hand: column deviations of {.8,.2} and {.2,.8} are .3; H(½) − H(.8) = 1 − 0.7219280949 bits.
  const Matrix between = matrix(2, 2, {.8, .2, .2, .8});
  EXPECT(*specialisation(between) == doctest::Approx(0.3));
  EXPECT(*mutual_information_bits(between) == doctest::Approx(0.2780719051));
  // Rows that do not sum to 1 (gates that are not renormalised) carry the same information as their scaled form.
  EXPECT(*mutual_information_bits(matrix(2, 2, {.4, .1, .05, .2})) == doctest::Approx(0.2780719051));
  EXPECT(load_entropy_bits({1, 1, 1, 1}) == doctest::Approx(2));
  EXPECT(load_entropy_bits({0, 5, 0}) == doctest::Approx(0));
  EXPECT(load_cv({1, 3}) == doctest::Approx(std::sqrt(2.0) / 2));  // ddof = 1: sd √2, mean 2
  EXPECT(dead_experts({0.5, 0.5, 0.0001, 0}) == 2);
  const LayerMetrics m = layer_metrics(between, perfect, {30, 10});
  EXPECT(m.loads() == std::vector<double>{0.75, 0.25});
  EXPECT(m.scalar("largest_share") == 0.75);
  EXPECT(m.scalar("specialisation_cls") == doctest::Approx(0.5));
  EXPECT(contains(error_of([&] { layer_metrics(between, same); }), "its CLS view [3, 4]"));
}

TEST_CASE("results: a run reads back as written") {
  TemporaryFolder tmp("results-roundtrip");
  RunConfig config = fake_config("astrocyte-hierarchical", 3);
  config.data.class_names[1] = "Sport, \"new\"";
  write_fake_run(tmp.path, config, 40);
  const std::string folder = run_folder(tmp.path, 3, "astrocyte-hierarchical");
  const Run run = read_run(folder);
  EXPECT(run.state == RunState::done);
  EXPECT(to_json(run.config) == to_json(config));
  std::vector<LayerUtilisation> utilisation;
  const Evaluation expected = fake_evaluation(config, utilisation);
  EXPECT(to_json(*run.evaluation) == to_json(expected));  // doubles to the last bit
  for (size_t l = 0; l < 4; ++l)
    EXPECT(to_json(expected)["layers"][l].items().begin().value() == l + 1);  // "layer"
  for (bool cls : {false, true}) {
    const RunUtilisation u = read_run_utilisation(run, cls);
    EXPECT(u.topics == config.data.class_names);
    REQUIRE(u.layers.size() == 4);
    for (size_t l = 0; l < 4; ++l) EXPECT(u.layers[l] == (cls ? utilisation[l].cls : utilisation[l].all));
  }
  EXPECT(run.timing["machine"] == "fake");
  const Metrics metrics = read_metrics(folder);
  EXPECT(metrics.train.size() == 40);
  EXPECT(metrics.evals.size() == 10);
  EXPECT(metrics.evals[0].layers.size() == 4);
  EXPECT(read_metrics(folder, 10).train.size() == 10);
}

TEST_CASE("results: a log that was killed and resumed has the bytes of one that was not") {
  TemporaryFolder tmp("results-resume");
  const auto write = [&](MetricsLog& log, int first, int last) {
    for (int step = first; step <= last; ++step) {
      TrainPoint p;
      p.step = step;
      p.values = {{"loss", 1.0 / step}, {"grad_norm", step == 7 ? std::nan("") : 0.1 * step}, {"switch", 0.5}};
      log.add(p);
      if (step % 5 == 0) log.add(EvalPoint{"validation", step, {{"accuracy", 0.5}, {"loss", 1.0 / 3}}, {}});
    }
  };
  const std::string path = tmp.path + "/metrics.jsonl";
  {
    MetricsLog log(tmp.path, 0);
    write(log, 1, 20);
  }
  const std::string whole = read_file(path);
  {
    MetricsLog log(tmp.path, 0);
    write(log, 1, 13);
  }
  std::ofstream(path, std::ios::app) << "{\"kind\":\"train\",\"st";  // killed while it wrote
  {
    MetricsLog log(tmp.path, 10);
    write(log, 11, 20);
  }
  EXPECT(read_file(path) == whole);
  EXPECT(std::isnan(read_metrics(tmp.path).train[6].values.get("grad_norm")));
  // A loss that no row of the table knows is written behind the others and read back.
  EXPECT(contains(whole, "\"grad_norm\":0.1,\"switch\":0.5}\n"));
  EXPECT(read_metrics(tmp.path).train[0].values.get("switch") == 0.5);
}

TEST_CASE("results: begin_run starts over or resumes, never something else in silence") {
  TemporaryFolder tmp("results-begin");
  RunConfig config = fake_config("astrocyte", 0);
  write_fake_run(tmp.path, config, 10);
  const std::string folder = run_folder(tmp.path, 0, "astrocyte");
  config.commit = "another";
  begin_run(folder, config, true);
  EXPECT(read_run(folder).state == RunState::unfinished);
  EXPECT(fs::exists(folder + "/metrics.jsonl"));
  config.train["lr"] = 1e-3;
  EXPECT(contains(error_of([&] { begin_run(folder, config, true); }), "cannot resume this run: its train is"));
  begin_run(folder, config, false);
  EXPECT(!fs::exists(folder + "/metrics.jsonl"));
  EXPECT(!fs::exists(folder + "/utilization_layer1.csv"));
  write_failure(folder, {"loss is not finite", 17});
  EXPECT(read_run(folder).state == RunState::failed);
  EXPECT(read_run(folder).failure->step == 17);
}

TEST_CASE("results: what is wrong with a run is named") {
  TemporaryFolder tmp("results-bad");
  write_fake_run(tmp.path, fake_config("astrocyte", 0), 10);
  write_fake_run(tmp.path, fake_config("dense", 0), 10);
  const std::string folder = run_folder(tmp.path, 0, "astrocyte");
  const auto message = [&] { return error_of([&] { read_run_utilisation(read_run(folder), false); }); };
  const std::string config = folder + "/config.json", eval = folder + "/eval.json";
  const std::string csv = folder + "/utilization_layer2.csv";
  REQUIRE(message() == "");

  SUBCASE("config.json") {
    const std::string good = read_file(config);
    put(config, good.substr(0, good.size() / 2));
    EXPECT(contains(message(), config + ":"));  // with line and column
    EXPECT(contains(message(), ": expected JSON, found the end of the file"));
    put(config, replaced(good, "\"heads\": 8", "\"heads\": 7"));
    EXPECT(message() == config + ": expected a model.hidden that its 7 heads divide, got 512");
    put(config, "{\"model_type\": \"bert\"}");
    EXPECT(message() ==
           folder + ": expected a run's folder (results/seed0/dense), found a model that is written for others");
    put(config, replaced(good, "\"protocol\": \"clean\"", "\"protocol\": 3"));
    EXPECT(message() == config + ": expected text as \"protocol\", got 3");
    put(config, replaced(good, "\"seed_index\"", "\"index\""));
    EXPECT(message() == config + ": expected the field \"seed_index\", which is not there");
    put(config, replaced(good, "\"seed_index\": 0", "\"seed_index\": 2"));
    EXPECT(message() == config + ": expected seed_index 0, got 2");
    put(config, replaced(good, "\"config\": \"astrocyte\"", "\"config\": \"softmax-moe\""));
    EXPECT(message() == config + ": expected the run of this folder, got the one of \"softmax-moe\"");
  }
  SUBCASE("eval.json") {
    const std::string good = read_file(eval);
    put(eval, "[]");
    EXPECT(message() == eval + ": expected a JSON object, found array");
    put(eval, replaced(good, "\"accuracy\": 0.", "\"accuracy\": 90."));
    EXPECT(contains(message(), eval + ": expected accuracy in 0…1, got 90."));
    put(config, replaced(read_file(config), "\"layers\": 4", "\"layers\": 5"));
    put(eval, good);
    EXPECT(message() == eval + ": expected 5 MoE layers as in config.json, got 4");
  }
  SUBCASE("utilisation") {
    const std::string good = read_file(csv);
    fs::remove(csv);
    EXPECT(contains(message(), csv));
    put(csv, good.substr(0, good.size() - 9));
    EXPECT(message() == csv + ": half-written: the last line has no end");
    put(csv, "step,loss\n1,2\n");
    EXPECT(message() == csv + ":1: expected the header topic,expert0,expert1,…, got \"step,loss\"");
    put(csv, replaced(good, "\nSports,", "\nSports,x"));
    EXPECT(contains(message(), csv + ":3: expected a share >= 0 in column 2, got \"x0."));
    put(csv, replaced(good, "\nSports,", "\nSports,0.5,"));
    EXPECT(message() == csv + ":3: expected 9 fields, got 10");
    put(csv, replaced(good, "\nSports,", "\nGardening,"));
    EXPECT(contains(message(), "expected the topics World, Sports, Business, Sci/Tech, got World, Gardening"));
    put(csv, good.substr(0, good.find('\n') + 1));
    EXPECT(message() == csv + ": expected a row a topic, got only the header");
    put(csv, "topic,expert0\nWorld,1\n");
    EXPECT(message() == csv + ": expected 8 experts as in config.json, got 1");
  }
  SUBCASE("dense, unfinished, failed") {
    const Run dense = read_run(run_folder(tmp.path, 0, "dense"));
    EXPECT(contains(error_of([&] { read_run_utilisation(dense, false); }), "has no experts"));
    fs::remove(eval);
    EXPECT(contains(message(), "the run is not finished"));
    write_failure(folder, {"out of memory", 3});
    EXPECT(contains(message(), "the run failed: out of memory"));
  }
  SUBCASE("metrics.jsonl") {
    const std::string path = folder + "/metrics.jsonl";
    put(path, read_file(path) + "what\n");
    EXPECT(contains(error_of([&] { read_metrics(folder); }), path + ":21: expected a JSON object, got \"what\""));
    put(path, "{\"kind\":\"train\",\"step\":1");
    EXPECT(read_metrics(folder).train.empty());  // being written right now
  }
}

TEST_CASE("results: list_runs takes results, a seed or a run, and names what it cannot read") {
  TemporaryFolder tmp("results-list");
  for (const char* name : {"softmax-moe", "dense", "zebra", "astrocyte"})
    for (int seed : {1, 0}) write_fake_run(tmp.path, fake_config(name, seed), 2);
  fs::create_directories(tmp.path + "/seed1/notes");
  fs::create_directories(tmp.path + "/seed1/plots");  // tools/report on this seed alone: no run, and nothing wrong
  put(tmp.path + "/seed0/astrocyte/config.json", "{");
  const Listing all = list_runs(tmp.path + "/");
  std::vector<std::string> names;
  for (const Run& run : all.runs) names.push_back(fmt::format("{}{}", run.config.config, run.config.seed_index));
  EXPECT(names == std::vector<std::string>{"dense0", "softmax-moe0", "zebra0", "dense1", "softmax-moe1",
                                           "astrocyte1", "zebra1"});
  REQUIRE(all.problems.size() == 2);
  EXPECT(contains(all.problems[0].message, "seed0/astrocyte/config.json:1:2: expected JSON, found the end"));
  EXPECT(contains(all.problems[1].message, "seed1/notes: is no run: it has no config.json"));
  EXPECT(list_runs(tmp.path + "/seed1").runs.size() == 4);
  EXPECT(list_runs(tmp.path + "/seed1/zebra").runs.size() == 1);
  EXPECT(contains(error_of([&] { list_runs(tmp.path + "/seed1/notes"); }), "is no result folder"));
  EXPECT(contains(error_of([&] { list_runs(tmp.path + "/nowhere"); }), "no such folder"));
  EXPECT(contains(error_of([&] { list_runs(tmp.path + "/seed3"); }),
                  "/seed3: no such folder; there are seed0, seed1"));
  require_comparable(all.runs);
}

TEST_CASE("results: one summary never mixes protocols, data or training settings") {
  Run a, b;
  a.folder = "a", b.folder = "b";
  a.config = fake_config("dense", 0), b.config = fake_config("astrocyte", 1);
  require_comparable({a, b});  // experts and router differ by design
  const auto message = [&] { return error_of([&] { require_comparable({a, b}); }); };
  SUBCASE("protocol") {
    b.config.protocol = "paper";
    EXPECT(message() == "a and b: runs of one summary must have the same protocol, got \"clean\" and \"paper\"");
  }
  SUBCASE("an option") {
    b.config.options["selection"] = "test";
    EXPECT(contains(message(), "the same options.selection, got"));
  }
  SUBCASE("data") {
    b.config.data.synthetic = false;
    EXPECT(contains(message(), "the same data.synthetic"));
  }
  SUBCASE("training") {
    b.config.train["epochs"] = 3;
    EXPECT(contains(message(), "the same train.epochs, got 6 and 3"));
  }
  SUBCASE("training, what is left out at its usual value") {
    b.config.train["freeze"] = "*word*";
    EXPECT(contains(message(), "runs of one summary must have the same train.freeze, got none and \"*word*\""));
    std::swap(a.config.train, b.config.train);
    EXPECT(contains(message(), "the same train.freeze, got \"*word*\" and none"));
    b.config.sets = {"freeze"};  // by the study's design
    require_comparable({a, b});
  }
  SUBCASE("seeds of one configuration") {
    b.config = fake_config("dense", 1);
    b.config.config = a.config.config = "moe";
    for (Run* run : {&a, &b}) run->config.router = "softmax", run->config.model["experts"] = 8;
    require_comparable({a, b});
    const RunConfig same = b.config;
    const auto differs = [&](const char* what) {
      EXPECT(contains(message(), fmt::format("a and b: seeds of one configuration must have the same {}", what)));
      b.config = same;
    };
    b.config.router = "switch", differs("router, got \"softmax\" and \"switch\"");
    b.config.balance += 0.5, differs("balance");
    b.config.model["experts"] = 4, differs("model.experts, got 8 and 4");
    b.config.model["orthogonality_loss"] = 0.5, differs("model.orthogonality_loss, got none and 0.5");
    // Another configuration may, and an option of the router's own came later.
    b.config.router = "switch", b.config.config = "other";
    require_comparable({a, b});
    b.config = same;
    for (const RouterRow& row : router_registry())
      if (!row.options.empty()) {
        a.config.router = b.config.router = row.name;
        b.config.model[option_key(row.options[0].name)] = 1;
        require_comparable({a, b});
        break;
      }
  }
}

TEST_CASE("results: damaged files give a named error or a value, never anything else") {
  TemporaryFolder tmp("results-fuzz");
  write_fake_run(tmp.path, fake_config("astrocyte", 0, 2, 4), 3);
  const std::string folder = run_folder(tmp.path, 0, "astrocyte");
  const std::vector<std::string> files = {"config.json", "eval.json", "metrics.jsonl", "timing.json",
                                          "utilization_layer1.csv"};
  std::vector<std::string> good;
  for (const auto& file : files) good.push_back(read_file(folder + "/" + file));
  const char alphabet[] = "{}[]\",:.-0123456789eEntu \n\x00\xff";
  int errors = 0;
  for (uint32_t trial = 0; trial < 1500; ++trial) {
    const size_t which = trial % files.size();
    std::string bad = good[which];
    for (uint32_t k = 0; k <= trial % 3; ++k) {
      const PhiloxBlock r = random_block(11, purpose::kTest, trial, k);
      const size_t at = r.word[0] % bad.size();
      if (r.word[1] % 8 == 0) bad.resize(at + 1);
      else bad[at] = alphabet[r.word[2] % (sizeof alphabet - 1)];
    }
    put(folder + "/" + files[which], bad);
    try {
      read_metrics(folder);
      summarise(list_runs(tmp.path));
      read_run_utilisation(read_run(folder), false);
    } catch (const Error& error) {
      ++errors;
      EXPECT(contains(error.what(), tmp.path));
    }
    put(folder + "/" + files[which], good[which]);
  }
  EXPECT(errors > 500);
}
