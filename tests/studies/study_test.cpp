// Studies as data: the reader, its errors, the built-in ones, and running one of a user's own.
#include "experiments/studies/study.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "engine/core/file.h"
#include "experiments/report/report.h"
#include "experiments/report/tables.h"
#include "experiments/training/estimate.h"
#include "experiments/training/feed/data_source.h"
#include "experiments/training/presets.h"
#include "experiments/training/run.h"
#include "nn/weights/safetensors.h"
#include "tests/records/fake_results.h"
#include "tests/test.h"
#include "tests/training/flag_words.h"

namespace fs = std::filesystem;
using namespace glia;
using namespace glia::test;

namespace {

constexpr const char* kSmall = R"(# two configurations, the second from the first
title = A small one
compare.accuracy = plain
compare.routing = copied
published.data = synthetic
epochs = 1

[plain]
published.accuracy = 0.5 (0.625)
published.accuracy.p = <0.001
[copied]
router = softmax
balance = 0.125
lr = 0.002
init = run:plain
look.colour = #0a0b0c
look.dashes = 5 3
)";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

const std::string kTiny =
    std::string(kTinyFlags) +
    "--synthetic-rows 160 --synthetic-test-rows 48 --vocab-size 400 --layers 1 --batch 8 --seeds 1 ";

Options tiny(const std::string& study, const std::string& out, std::vector<const char*> more = {}) {
  const std::vector<std::string> usual = words_of("run_all --study " + study + " --out " + out + " " + kTiny);
  std::vector<const char*> words = pointers_to(usual);
  words.insert(words.end(), more.begin(), more.end());
  return resolve(parse_command_line(static_cast<int>(words.size()), words.data(), Flag::kRunAll, ""));
}

// The program itself, as another process; what it prints goes to `output` beside `out`.
int run_all(const std::string& study, const std::string& out, const std::string& more,
            const std::string& usual = kTiny) {
  const std::string command = fmt::format(
      "./experiments/run_all --study {} --out {} {} --estimate off --progress lines", study, out, usual);
  const std::string output = fs::path(out).parent_path().string() + "/output";
  return std::system(fmt::format("{} {} > {} 2>&1", command, more, output).c_str());
}

}  // namespace

TEST_CASE("study: every built-in one reads, and its configurations can be planned") {
  REQUIRE(built_in_studies().size() >= 2);
  EXPECT(built_in_studies().front().name == kDefaultStudy);
  for (const Study& study : built_in_studies()) {
    INFO(study.name);
    EXPECT(find_study(study.name).text == study.text);
    TemporaryFolder tmp("study-plan");
    Options o = tiny(study.name, tmp.path);
    const std::vector<std::string> all = parse_configs("all", study);
    EXPECT(all.size() == study.configurations.size());
    // A start from another result folder wants the runs there.
    const bool starts_elsewhere = std::ranges::any_of(study.configurations, [](const Configuration& c) {
      return std::ranges::any_of(c.settings, [](const auto& s) { return contains(start_run(s.second), "/"); });
    });
    if (starts_elsewhere)
      EXPECT(contains(error_of([&] { plan_runs(o, study, all); }), "which is neither there nor planned before it"));
    else EXPECT(plan_runs(o, study, all).size() == all.size());
    for (const auto& list : {study.accuracy_baselines, study.routing_baselines})
      for (const std::string& name : list) EXPECT(study.find(name));
  }
}

TEST_CASE("study ahr: routers and weights are those of docs/science.md 2, and the published names say the same") {
  struct Row {
    const char *name, *router;
    double balance, energy;
  };
  constexpr Row rows[] = {{"dense", "none", 0, 0},
                          {"dense-random-ffn", "none", 0, 0},
                          {"softmax-moe", "softmax", 0.01, 0},
                          {"softmax-moe-energy", "softmax", 0.01, 0.01},
                          {"astrocyte", "astrocyte", 0.01, 0.01},
                          {"astrocyte-no-energy", "astrocyte", 0.01, 0},
                          {"astrocyte-unleashed", "astrocyte", 0, 0.05},
                          {"astrocyte-hierarchical", "astrocyte-hierarchical", 0.01, 0.01},
                          {"astrocyte-meanpool", "astrocyte-meanpool", 0.01, 0.01}};
  for (const Row& row : rows) {
    INFO(row.name);
    const Configuration& c = configuration(row.name);
    const std::string router = row.router;
    EXPECT(c.router == router);
    EXPECT(c.balance == row.balance);
    EXPECT(c.energy == row.energy);
    EXPECT(c.random_ffn == (row.name == std::string("dense-random-ffn")));
    const auto weight = [](double w) { return w == 0 ? std::string("0.0") : fmt::format("{}", w); };
    EXPECT(c.published_name ==
           (router == "none" ? std::string(row.name)
                             : fmt::format("{}-E8-LB{}-EN{}", router, weight(row.balance), weight(row.energy))));
  }
}

TEST_CASE("study ahr: the published numbers of docs/science.md 5, beside its own data set and depth only") {
  struct Row {
    const char* config;
    double accuracy, first, last;
  };
  constexpr Row rows[] = {
      {"softmax-moe", 0.9411, 0.0154, 0.0588},         {"softmax-moe-energy", 0.9415, 0.0164, 0.0570},
      {"astrocyte", 0.9413, 0.0128, 0.0689},           {"astrocyte-no-energy", 0.9418, 0.0128, 0.0688},
      {"astrocyte-unleashed", 0.9406, 0.0145, 0.0773}, {"astrocyte-hierarchical", 0.9423, 0.0129, 0.1088},
      {"astrocyte-meanpool", 0.9407, 0.0142, 0.0658}};
  const Study& ahr = built_in_studies().front();
  for (const Row& row : rows) {
    INFO(row.config);
    EXPECT(ahr.published(row.config, "accuracy", "ag_news", 4)->value == row.accuracy);
    EXPECT(ahr.published(row.config, "specialisation.1", "ag_news", 4)->value == row.first);
    EXPECT(ahr.published(row.config, "specialisation.4", "ag_news", 4)->value == row.last);
    EXPECT(!ahr.published(row.config, "specialisation.1", "ag_news", 5));
    EXPECT(!ahr.published(row.config, "accuracy", "csv", 4));
  }
  EXPECT(ahr.published("dense", "accuracy", "ag_news", 1)->value == 0.9431);
  EXPECT(ahr.published("dense-random-ffn", "accuracy", "ag_news", 1)->p == "<0.001");
  EXPECT(*ahr.published("astrocyte-hierarchical", "specialisation.1", "ag_news", 4)->other == 0.0139);
}

TEST_CASE("study: a file is read as it stands") {
  const Study s = parse_study(kSmall, "some/where/small.study");
  EXPECT(s.name == "small");
  EXPECT(s.title == "A small one");
  EXPECT(parse_study("\xEF\xBB\xBF" + std::string(kSmall), "small.study").configurations.size() == 2);
  EXPECT(s.settings == std::vector<std::pair<std::string, std::string>>{{"epochs", "1"}});
  REQUIRE(s.configurations.size() == 2);
  const Configuration& c = s.configurations[1];
  EXPECT(c.router == "softmax");
  EXPECT(c.balance == 0.125);
  EXPECT(c.settings.size() == 2);
  EXPECT(c.look->colour == std::array<uint8_t, 3>{10, 11, 12});
  EXPECT(c.look->dashes == std::vector<double>{5, 3});
  const Published& p = *s.published("plain", "accuracy", "synthetic", 4);
  EXPECT(p.value == 0.5);
  EXPECT(*p.other == 0.625);
  EXPECT(p.p == "<0.001");
  EXPECT(configuration_less(s, "plain", "copied"));
  EXPECT(configuration_less(s, "copied", "aaa"));  // one that is not its own
  EXPECT(parse_configs("copied,plain,copied", s) == std::vector<std::string>{"copied", "plain"});
  EXPECT(parse_configs("plain,softmax-moe", s).size() == 2);  // of another study
  EXPECT(contains(error_of([&] { parse_configs("plian", s); }),
                  "expected one of plain, copied, or STUDY/NAME of another; got 'plian'"));
}

TEST_CASE("study: mistakes are named with their line") {
  const auto message = [](const std::string& from, const std::string& to) {
    return error_of([&] { parse_study(replaced(kSmall, from, to), "x.study"); });
  };
  EXPECT(
      contains(message("title = A small one", "title"), "x.study:2: expected key = value or [name], got 'title'"));
  EXPECT(contains(message("epochs = 1", "epohcs = 1"), "x.study:6: unknown flag --epohcs"));
  EXPECT(contains(message("epochs = 1", "epochs = many"), "x.study:6: --epochs: expected a whole number"));
  EXPECT(contains(message("epochs = 1", "out = /tmp"), "x.study:6: --out says where or how to run"));
  EXPECT(contains(message("epochs = 1", "title = again"), "x.study:6: title is there twice"));
  EXPECT(contains(message("[copied]", "[plain]"), "the configuration plain is there twice"));
  EXPECT(contains(message("[copied]", "[a/b]"), "expected a configuration's name"));
  EXPECT(contains(message("[copied]", "[copied"), "expected [name]"));
  EXPECT(contains(message("balance = 0.125", "balance = much"), "balance: expected a number, got 'much'"));
  EXPECT(contains(message("#0a0b0c", "red"), "look.colour: expected #rrggbb, got 'red'"));
  EXPECT(contains(message("5 3", "5 0"), "look.dashes: expected lengths above 0"));
  EXPECT(contains(message("look.dashes", "look.size"), "expected look.colour, look.marker or look.dashes"));
  EXPECT(contains(message("published.data = synthetic", "published.data = ag-news"),
                  "x.study:5: published.data: expected a data set"));
  EXPECT(contains(message("(0.625)", "(0.625"), "expected a number, or two, the second in brackets"));
  EXPECT(contains(message("run:plain", "run:copied"),
                  "copied starts from 'copied': expected a configuration above it"));
  EXPECT(contains(message("compare.accuracy = plain", "compare.accuracy = dense"),
                  "expected one of plain, copied to compare with, got 'dense'"));
  EXPECT(contains(message("compare.accuracy = plain", "#"), "expected compare.accuracy"));
  for (const char* whole : {"seeds = 3", "preset = quick", "protocol = paper"})  // were kept and did nothing
    EXPECT(contains(message("lr = 0.002", whole), "x.study:14: --" + std::string(whole, 5)));
  EXPECT(contains(
      message("published.accuracy.p = <0.001", "published.acuracy = 1"),
      "x.study:10: expected a metric as in summary.json, accuracy or specialisation.4 say, got 'acuracy'"));
  EXPECT(contains(message("epochs = 1", "claim.a = copied > plain in acuracy"), "x.study:6: expected a metric"));
  EXPECT(contains(message("epochs = 1", "claim.a = copied > plain in specialisation.last"), "there is none"));
  EXPECT(contains(message("epochs = 1", "grid.lr = 1e-3, 1e-3"), "x.study:6: grid.lr: expected each value once"));
  for (const char* key : {"grid.seeds = 2", "grid.chosen-seeds = 2", "grid.seeds.plain = 2", "grid.choice = each"})
    EXPECT(contains(message("epochs = 1", key), "expected grid.FLAG beside them"));
  EXPECT(contains(message("epochs = 1", "grid.finalists = 0"),
                  "x.study:6: grid.finalists: expected a number of cells"));
  EXPECT(
      contains(message("epochs = 1", "grid.finalists = 2"), "expected grid.choice = each and grid.chosen-seeds"));
  EXPECT(contains(message("compare.routing = copied", "#"), "expected compare.routing"));
  EXPECT(contains(error_of([] { parse_study("", "x.study"); }), "expected at least one [configuration]"));
  EXPECT(contains(error_of([] { find_study("nothing"); }), "--study: expected one of ahr, balance"));
}

TEST_CASE(
    "study: a configuration of any built-in study by its name, and by study/name where two mean different things") {
  const Study s = parse_study(kSmall, "x.study");
  for (const Study& of : built_in_studies())
    for (const Configuration& c : of.configurations) {
      const std::string full = of.name + "/" + c.name;
      INFO(full);
      EXPECT((&configuration_of(s, full) == of.find(c.name)));
      EXPECT((&configuration_of(of, c.name) == of.find(c.name)));  // a study's own comes first
      if (const std::string error = error_of([&] { configuration_of(s, c.name); }); !error.empty())
        EXPECT(contains(error, fmt::format("'{}' means one thing in study", c.name)));
    }
  const std::string first = built_in_studies()[0].configurations[0].name,
                    full = built_in_studies()[0].name + "/" + first;
  EXPECT(parse_configs("plain," + full, s) == std::vector<std::string>{"plain", full});
  // By whatever name it is one run.
  EXPECT(parse_configs("plain, x/plain", s) == std::vector<std::string>{"plain"});
  EXPECT(parse_configs("x/copied,copied", s) == std::vector<std::string>{"copied"});
  EXPECT(parse_configs(first + "," + full, built_in_studies()[1]).size() == 1);
  const std::string study = built_in_studies()[0].name;
  EXPECT(
      contains(error_of([&] { configuration_of(s, study + "/nobody"); }), "in study " + study + "; got 'nobody'"));
  EXPECT(contains(error_of([&] { configuration_of(s, "nowhere/dense"); }), "before the '/'; got 'nowhere'"));
  // One name for two things would be one folder.
  const Study other =
      parse_study(replaced(replaced(kSmall, "compare.routing = copied", "compare.routing = " + first), "[copied]",
                           "[" + first + "]"),
                  "y.study");
  EXPECT(contains(error_of([&] { parse_configs(first + "," + full, other); }), "have one name for their runs"));
}

TEST_CASE(
    "study: what is typed wins over the configuration, the configuration over the study, that over the preset") {
  TemporaryFolder tmp("study-order");
  const std::string path = tmp.path + "/small.study";
  std::ofstream(path) << kSmall;
  const Study study = find_study(path);
  const Options o = tiny(path, tmp.path + "/out");
  EXPECT(o.epochs == 1);  // the preset says more
  const auto specs = plan_runs(o, study, {"plain", "copied"});
  EXPECT(specs[0].options.lr == o.lr);
  EXPECT(specs[1].options.lr == 0.002);
  EXPECT(specs[1].model.moe.balance == 0.125);
  EXPECT(specs[1].sets == std::vector<std::string>{"lr", "init"});
  EXPECT(specs[1].starts_from == specs[0].folder);
  EXPECT(plan_runs(tiny(path, tmp.path + "/out", {"--lr", "0.5"}), study, {"plain", "copied"})[1].options.lr ==
         0.5);
  EXPECT(tiny(path, tmp.path, {"--epochs", "3"}).epochs == 3);
  EXPECT(contains(error_of([&] { plan_runs(o, study, {"copied"}); }), "neither there nor planned before it"));
}

TEST_CASE("study: a run starts from another one's end, and the folder is read by its study ever after") {
  if (!fs::exists("experiments/run_all")) SKIP("experiments/run_all is not built");
  TemporaryFolder tmp("study-run");
  const std::string path = tmp.path + "/small.study", out = tmp.path + "/out";
  std::ofstream(path) << replaced(kSmall, "lr = 0.002", "lr = 1e-30");  // so that it stays where it starts
  EXPECT(run_all(path, out, "--report off") == 0);
  const results::Listing listing = results::list_runs(out);
  REQUIRE(listing.runs.size() == 2);
  EXPECT(listing.study.name == "small");
  EXPECT(listing.runs[1].config.train["init"] == "run:plain");  // no path of this machine
  const results::Summary s = results::summarise(listing);       // although the learning rates differ
  EXPECT(s.configs[1].config == "copied");
  EXPECT(s.published("plain", "accuracy")->value == 0.5);
  EXPECT(results::accuracy_table(s).header[4] == "published");
  EXPECT(results::read_summary(out).study.text == s.study.text);
  // What the dense model learned is what the other one has.
  Context context(Device::cpu());
  const auto weights = [&](const char* config) {
    const SafetensorsFile file(results::run_folder(out, 0, config) + "/model.safetensors");
    const std::string name = "embeddings.word.weight";
    Tensor tensor = empty(context, file.entry(name).shape);
    file.read_into(name, tensor);
    return tensor.to_vector<float>();
  };
  EXPECT(weights("copied") == weights("plain"));
  EXPECT(run_all("ahr", out, "--configs dense") != 0);
  EXPECT(contains(read_file(tmp.path + "/output"), "holds the study small, and ahr is asked for"));
  // It needs no more than the other's end.
  fs::remove_all(results::run_folder(out, 0, "copied"));
  EXPECT(run_all(path, out, "--configs copied --report off") == 0);
}

TEST_CASE("study: two result folders of equal runs are equal but for their times") {
  if (!fs::exists("experiments/run_all")) SKIP("experiments/run_all is not built");
  const auto contents = [](const std::string& out) {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(out))
      if (entry.is_regular_file() && entry.path().filename() != "timing.json")
        files[fs::relative(entry.path(), out).string()] = read_file(entry.path().string());
    return files;
  };
  TemporaryFolder tmp("study-equal");
  const std::string path = tmp.path + "/small.study", out = tmp.path + "/out";
  std::ofstream(path) << kSmall;
  REQUIRE(run_all(path, out, "--report on") == 0);
  EXPECT(contains(read_file(tmp.path + "/output"), out + "/report.html"));
  const auto first = contents(out);
  fs::remove_all(out);
  REQUIRE(run_all(path, out, "--report on") == 0);
  const auto second = contents(out);
  EXPECT(first.size() == second.size());
  for (const char* name :
       {"plots/accuracy.svg", "summary.json", "report.html", "seed0/plain/events.out.tfevents.glia"})
    EXPECT(first.contains(name));
  for (const auto& [name, bytes] : first) {
    INFO(name);
    REQUIRE(second.contains(name));
    EXPECT(bytes == second.at(name));
  }
}

TEST_CASE(
    "study: a grid runs its cells and the chosen one; a run of another folder and topics is where others start") {
  if (!fs::exists("experiments/run_all")) SKIP("experiments/run_all is not built");
  TemporaryFolder tmp("study-grid");
  const std::string source = tmp.path + "/source", out = tmp.path + "/out", path = tmp.path + "/moved.study";
  std::ofstream(path)
      << "compare.accuracy = fresh\nonly-topics = 2,3\ngrid.max-rows = 40, 80\ngrid.seeds = 1\n"
         "grid.chosen-seeds = 2\nclaim.a = moved > fresh in accuracy\n[fresh]\n[moved]\nlr = 1e-30\n"
         "init = run:"
      << source << "/dense\nfreeze = *\ntrain = encoder.layer.{last}.ffn.*,pooler.*,classifier.*\n";
  EXPECT(run_all(path, out, "--report off --epochs 1") != 0);
  EXPECT(contains(read_file(tmp.path + "/output"), "neither there nor planned before it"));
  REQUIRE(run_all("ahr", source, "--report off --epochs 1 --configs dense --only-topics 0,1") == 0);
  REQUIRE(run_all(path, out, "--report off --epochs 1 --cells max-rows40") == 0);
  EXPECT(contains(read_file(tmp.path + "/output"), "max-rows80 lacks a run of seed 0"));
  EXPECT(!fs::exists(out + "/max-rows80"));
  REQUIRE(run_all(path, out, "--report off --epochs 1") == 0);
  const results::Listing listing = results::list_runs(out + "/max-rows80");
  REQUIRE(listing.runs.size() == 2);
  EXPECT(listing.runs[0].config.data.train_rows < 80);
  EXPECT(listing.runs[0].config.data.class_names.size() == 2);
  EXPECT(fs::exists(out + "/grid.json"));
  EXPECT(contains(read_file(tmp.path + "/output"), "chosen     max-rows"));
  // All but the last layer's FFN and the head is as it was; the rate is too small to move those.
  Context context(Device::cpu());
  const auto weights = [&](const std::string& folder) {
    const SafetensorsFile file(folder + "/model.safetensors");
    const std::string name = "encoder.layer.0.ffn.up.weight";
    Tensor tensor = empty(context, file.entry(name).shape);
    file.read_into(name, tensor);
    return tensor.to_vector<float>();
  };
  EXPECT(weights(out + "/max-rows80/seed0/moved") == weights(source + "/seed0/dense"));
  EXPECT(run_all("ahr", out, "--configs dense") != 0);
  EXPECT(run_all(path, out, "--lr 1 --max-rows 3") != 0);
  EXPECT(contains(read_file(tmp.path + "/output"), "--max-rows: the grid of the study moved sets it"));
}

TEST_CASE("study: the dry run lists each configuration with its time and their sum, and writes nothing") {
  if (!fs::exists("experiments/run_all")) SKIP("experiments/run_all is not built");
  TemporaryFolder tmp("study-dry");
  const std::string path = tmp.path + "/small.study", out = tmp.path + "/out";
  std::ofstream(path) << kSmall << "[third]\nrouter = softmax\nexperts = 2\n[loud]\nrouter = hash\nbalance = 5\n";
  REQUIRE(run_all(path, out, "--seeds 2 --dry-run on --estimate on") == 0);
  const std::string text = read_file(tmp.path + "/output");
  for (const char* name : {"plain", "copied", "third", "loud"}) {
    INFO(text);
    const size_t at = text.find(fmt::format(" {:<26} ", name));
    REQUIRE(at != std::string::npos);
    const std::string line = text.substr(at, text.find('\n', at) - at);
    EXPECT(contains(line, " ms a step, "));
    EXPECT(contains(line, " for 2 runs"));
    EXPECT(!contains(line, "~"));
  }
  EXPECT(contains(text, " for 8 runs, by a few steps of each configuration here"));
  EXPECT(contains(text, "note       loud: --balance 5 changes nothing, since router hash gives it no gradient"));
  EXPECT(!fs::exists(out));
}

TEST_CASE(
    "study: where measuring takes too long the nearest measured configuration stands for another, and a line says so") {
  const Study s = parse_study(
      replaced(kSmall, "published.data = synthetic\n", "") + "[wide]\nrouter = softmax\ntop-k = 4\n", "x.study");
  TemporaryFolder tmp("study-near");
  const Options o = tiny("ahr", tmp.path + "/out");
  const Dataset data = load_data(o);
  const std::vector<RunSpec> specs = plan_runs(o, s, {"plain", "copied", "wide"});
  StepTimes times(data, Device::cpu(), "a device");
  EXPECT(times.of(specs[0]).ms == 1);
  const std::string file = tmp.path + "/said";
  std::FILE* said = std::fopen(file.c_str(), "w");
  print_costs(specs, specs, data, &times, 0, 1, said);  // no time at all: one of each kind
  std::fclose(said);
  EXPECT((!times.of(specs[0]).near && !times.of(specs[1]).near && times.of(specs[2]).near));
  EXPECT(times.of(specs[2]).ms == times.of(specs[1]).ms);
  EXPECT(contains(read_file(file), "~ of 1 configuration: "));
  EXPECT((times.measure(specs[2], false) && !times.measure(specs[2], false)));
  EXPECT(!times.of(specs[2]).near);
}

TEST_CASE("study: a grid that grows and chooses another cell moves the chosen runs of before to theirs") {
  if (!fs::exists("experiments/run_all")) SKIP("experiments/run_all is not built");
  TemporaryFolder tmp("study-grown");
  const std::string out = tmp.path + "/out", path = tmp.path + "/grown.study";
  const auto write = [&](const char* rates) {
    std::ofstream(path) << "compare.accuracy = a\nepochs = 6\nwarmup = 0\ndifficulty = 0\ngrid.lr = " << rates
                        << "\ngrid.seeds = 1\ngrid.chosen-seeds = 3\ngrid.choice = each\n[a]\n";
  };
  const std::string no_seeds = kTiny.substr(0, kTiny.find("--seeds"));
  // Nothing is learned with the first two, so that of equals the first is chosen; the third is better.
  write("1e-30, 1e-29");
  REQUIRE(run_all(path, out, "--report off", no_seeds) == 0);
  const auto rate = [](const std::string& folder) {
    return results::is_done(folder) ? results::read_run(folder).config.train.value("lr", 0.0) : 0.0;
  };
  for (int seed = 0; seed < 3; ++seed) EXPECT(rate(results::run_folder(out + "/chosen", seed, "a")) == 1e-30);
  EXPECT(!fs::exists(results::run_folder(out + "/lr1e-30", 1, "a")));
  const std::string weights = read_file(results::run_folder(out + "/chosen", 2, "a") + "/model.safetensors");
  write("1e-30, 1e-29, 0.006");
  const int status = run_all(path, out, "--report off", no_seeds);
  const std::string said = read_file(tmp.path + "/output");
  INFO(said);
  REQUIRE(status == 0);
  EXPECT(contains(said, "moved      3 runs of a from chosen to lr1e-30, since lr0.006 is chosen now"));
  for (int seed = 0; seed < 3; ++seed) {
    EXPECT(rate(results::run_folder(out + "/chosen", seed, "a")) == 0.006);
    EXPECT(rate(results::run_folder(out + "/lr1e-30", seed, "a")) == 1e-30);
  }
  EXPECT(!fs::exists(results::run_folder(out + "/lr1e-29", 1, "a")));
  EXPECT(read_file(results::run_folder(out + "/lr1e-30", 2, "a") + "/model.safetensors") == weights);
  EXPECT(results::read_run(results::run_folder(out + "/lr1e-30", 1, "a")).config.sets.empty());
  REQUIRE(run_all(path, out, "--report off", no_seeds) == 0);  // once more: there is nothing to move
  EXPECT(!contains(read_file(tmp.path + "/output"), "moved"));
}

TEST_CASE("study: finalists have the chosen seeds in their cells, and the highest mean over them is chosen") {
  if (!fs::exists("experiments/run_all")) SKIP("experiments/run_all is not built");
  TemporaryFolder tmp("study-finalists");
  const std::string out = tmp.path + "/out", path = tmp.path + "/finals.study";
  std::ofstream(path)
      << "compare.accuracy = a\nepochs = 2\nwarmup = 0\ngrid.lr = 1e-30, 0.004, 0.006, 0.008\ngrid.seeds = 1\n"
         "grid.chosen-seeds = 3\ngrid.choice = each\ngrid.finalists = 2\n[a]\n";
  const std::string no_seeds = kTiny.substr(0, kTiny.find("--seeds"));
  REQUIRE(run_all(path, out, "--report off", no_seeds) == 0);
  const std::vector<std::string> cells = {"lr1e-30", "lr0.004", "lr0.006", "lr0.008"};
  const auto validation = [](const std::string& folder) {
    return results::read_run(folder).evaluation->values.get("validation_accuracy");
  };
  std::vector<std::pair<double, size_t>> by_one, by_mean;
  for (size_t i = 0; i < cells.size(); ++i) {
    const auto folder = [&](int seed) { return results::run_folder(out + "/" + cells[i], seed, "a"); };
    by_one.emplace_back(-validation(folder(0)), i);
    EXPECT(results::is_done(folder(1)) == results::is_done(folder(2)));
    if (results::is_done(folder(1)))
      by_mean.emplace_back(-(validation(folder(0)) + validation(folder(1)) + validation(folder(2))), i);
  }
  REQUIRE(by_mean.size() == 2);
  std::ranges::sort(by_one);
  for (const auto& [mean, i] : by_mean) EXPECT((i == by_one[0].second || i == by_one[1].second));
  // Of equal means the one that is better by one seed.
  const bool second = by_mean[0].first < by_mean[1].first
                          ? by_mean[0].second == by_one[1].second
                          : by_mean[1].first < by_mean[0].first && by_mean[1].second == by_one[1].second;
  const std::string chosen = cells[by_one[second ? 1 : 0].second];
  EXPECT(contains(read_file(out + "/grid.json"), "\"a\": \"" + chosen + "\""));
  for (int seed = 0; seed < 3; ++seed)
    EXPECT(read_file(results::run_folder(out + "/chosen", seed, "a") + "/eval.json") ==
           read_file(results::run_folder(out + "/" + chosen, seed, "a") + "/eval.json"));
  REQUIRE(run_all(path, out, "--report off", no_seeds) == 0);  // once more: everything is there
  EXPECT(!contains(read_file(tmp.path + "/output"), "moved"));
}
