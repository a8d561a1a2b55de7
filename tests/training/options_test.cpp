// The command line: one table of flags, and who wins when several have a say.
#include <set>

#include "experiments/studies/study.h"
#include "experiments/training/presets.h"
#include "experiments/training/progress.h"
#include "moe/router.h"
#include "tests/test.h"

using namespace glia;
using namespace glia::test;

namespace {

CommandLine parse(std::vector<const char*> words, Flag::Programs programs = Flag::kRunAll) {
  words.insert(words.begin(), "run_all");
  return parse_command_line(static_cast<int>(words.size()), words.data(), programs, "");
}
Options resolved(std::vector<const char*> words) {
  words.insert(words.end(), {"--device", "cpu"});
  return resolve(parse(words));
}

}  // namespace

TEST_CASE("options: every flag has one row, a help text, and goes through text and back") {
  std::set<std::string> names;
  for (const Flag& flag : flags()) {
    INFO(flag.name);
    EXPECT(names.insert(flag.name).second);
    EXPECT(std::string(flag.help).size() > 5);
    Options o;
    set_value(o, flag, value_text(Options{}, flag));
    EXPECT(value_text(o, flag) == value_text(Options{}, flag));
  }
  EXPECT(echo(Options{}).empty());
  for (const auto& sets : {presets(), protocols()})
    for (const FlagSet& set : sets)
      for (const auto& [name, value] : set.values) {
        Options o;
        set_value(o, find_flag(name), value);  // throws for an unknown name or a bad value
        EXPECT(value_text(o, find_flag(name)) == value);
      }
}

namespace glia {
void add_flag(std::vector<Flag>& table, const OptionRow& row, const char* section);
}

TEST_CASE(
    "options: a router's option that has another flag's name is refused, one that routers share stands once") {
  const OptionRow first{"rate", 0.5, "a rate", 0, 1}, same = first, dropout{"dropout", 0.5, "a rate", 0, 1};
  OptionRow other = first;
  other.standard = 0.25;
  std::vector<Flag> table = flags();
  const size_t count = table.size();
  add_flag(table, first, "Router a");
  add_flag(table, same, "Router b");
  EXPECT(table.size() == count + 1);
  for (const OptionRow& row : {other, dropout}) {
    const std::string error = error_of([&] { add_flag(table, row, "Router c"); });
    EXPECT(contains(error, fmt::format("Router c: --{} is another flag's name", row.name)));
  }
}

TEST_CASE(
    "options: what is typed wins over the protocol, the protocol over the preset, the preset over the default") {
  const Options quick = resolved({"--preset", "quick"});
  EXPECT(quick.hidden == 64);
  EXPECT(quick.validation_fraction == 0.1);
  EXPECT(quick.select == "validation");
  EXPECT(quick.precision == "float32");
  EXPECT(quick.gradients == "float32");
  EXPECT(resolved({"--precision", "bfloat16"}).gradients == "float32");  // auto means bfloat16 on a GPU only
  EXPECT(resolved({"--precision", "bfloat16", "--gradients", "bfloat16"}).gradients == "bfloat16");
  const Options paper = resolved({"--preset", "quick", "--protocol", "paper", "--hidden", "32"});
  EXPECT(paper.hidden == 32);
  EXPECT(paper.validation_fraction == 0);
  EXPECT(paper.select == "test");
  EXPECT(paper.padding == "padded");
  EXPECT(paper.second_residual);
  EXPECT(paper.utilisation_rows == 2000);
  EXPECT(!resolved({"--protocol", "paper", "--second-residual", "off"}).second_residual);
  EXPECT(resolved({"--dataset", "synthetic"}).preset == "quick");
  EXPECT(resolved({"--dataset", "synthetic"}).out == "results");
  EXPECT(resolved({"--preset", "quick"}).out == "results-quick");
  EXPECT(resolved({"--csv-train", "my/topics.csv", "--preset", "small"}).out == "results-topics-small");
  EXPECT(resolved({"--data", "data/ag_news/", "--preset", "quick"}).out == "results-ag_news-quick");
  EXPECT(resolved({"--preset", "quick", "--out", "mine"}).out == "mine");
  EXPECT(resolved({"--data", "/some/where"}).preset == "small");
  const Options published = resolved({"--preset", "paper"});
  EXPECT(published.hidden == 512);
  EXPECT(published.batch == 192);
  EXPECT(parse_seeds(published.seeds).size() == 5);
}

TEST_CASE("options: mistakes are named, with what was expected") {
  const auto error = [](std::vector<const char*> words) { return error_of([&] { resolved(words); }); };
  EXPECT(contains(error({"--threads", "1000000000"}), "--threads: expected a whole number in [0, "));
  EXPECT(contains(error({"--jobs", "1000000000"}), "--jobs: expected a whole number in [0, "));
  EXPECT(
      contains(error({"--synthetic-rows", "9000000000000000000"}), "--synthetic-rows: expected a whole number in"));
  EXPECT(contains(error({"--hidden", "131072", "--ffn", "1048576", "--layers", "1000"}),
                  "--ffn, --experts: a model of"));
  EXPECT(contains(error({"--topics", "4", "--csv-train", "a.csv"}),
                  "--topics: the data set csv does not read it; say --dataset synthetic"));
  EXPECT(contains(error({"--csv-test", "a.csv", "--dataset", "synthetic"}), "--csv-test: the data set synthetic"));
  EXPECT(contains(error({"--vocab-size", "100", "--vocab", "v.txt"}), "--vocab-size: not read beside --vocab"));
  EXPECT(
      contains(error({"--lowercase", "on", "--vocab", "bytes"}), "--lowercase on: not read beside --vocab bytes"));
  EXPECT(resolved({"--lowercase", "off", "--vocab", "bytes"}).lowercase == "off");
  EXPECT(error({"--batsh", "3", "--lrr", "4"}) == "unknown flags --batsh, --lrr (--help lists all flags)");
  EXPECT(contains(error({"--out", "/dev/null"}), "--out /dev/null: expected a folder, found a file"));
  EXPECT(contains(error_of([] { parse_seeds("1000000000"); }), "up to 100000, got '1000000000'"));
  EXPECT(contains(error({"--batch", "many"}), "--batch: expected a whole number, got 'many'"));
  EXPECT(contains(error({"--batch", "3.5"}), "--batch: expected a whole number"));
  EXPECT(contains(error({"--batch", "0"}), "--batch: expected a whole number in [1, 1048576], got '0'"));
  EXPECT(contains(error({"--lr", "nan"}), "--lr: expected a finite number"));
  EXPECT(contains(error({"--graphs", "maybe"}), "--graphs: expected on or off"));
  EXPECT(contains(error({"--preset", "huge"}), "quick, small, paper"));
  EXPECT(contains(error({"--protocol", "mine"}), "clean, paper"));
  EXPECT(contains(error_of([] { resolve(parse({"--device", "tpu"})); }), "cpu, cuda"));
  EXPECT(contains(error({"--heads", "7"}), "--heads: expected a divisor"));
  EXPECT(contains(error({"--gradients", "bfloat16"}), "--gradients: expected float32 with --precision float32"));
  EXPECT(contains(error({"--gradients", "half"}), "float32, bfloat16"));
  EXPECT(contains(error({"--adam-state", "int8"}), "--adam-state: expected one of float32, bfloat16"));
  EXPECT(contains(error({"--validation-fraction", "0"}), "--select validation"));
  EXPECT(contains(error({"--config", "dense"}), "--config"));  // a flag of ./experiments/train
  EXPECT(contains(error({"dense"}), "expected no further argument, got \"dense\""));
  EXPECT(contains(error({"--init-noise", "-1"}), "--init-noise: expected 0 or more"));
  EXPECT(contains(error_of([] {
                    resolve(parse({"--device", "cpu", "--name", "a/b"}, Flag::kTrainOnly));
                  }),
                  "--name: expected a folder's name, not a path, got 'a/b'"));
  EXPECT(parse({"--router", router_registry()[0].name}, Flag::kTrainOnly).options.router ==
         router_registry()[0].name);
}

TEST_CASE("options: switches stand alone, --csv-train implies its data set, paths need not be UTF-8") {
  EXPECT(parse({"--dry-run"}).options.dry_run);
  EXPECT(parse({"--dry-run", "--seeds", "1"}).options.dry_run);
  EXPECT(!parse({"--dry-run", "off"}).options.dry_run);
  EXPECT(!parse({"--no-report"}).options.report);
  EXPECT(parse({"--skip-bad-rows"}).options.skip_bad_rows);
  EXPECT(parse({"--no-report"}).given.contains("report"));
  EXPECT(parse({"--version"}).done);
  const CommandLine empty = parse({"--cache=", "--out=", "--seeds=2"});
  EXPECT((empty.options.cache.empty() && empty.options.out.empty() && empty.options.seeds == "2"));
  EXPECT(resolved({"--csv-train", "a.csv"}).dataset == "csv");
  Options o;
  o.csv_train = "\xFF.csv";
  EXPECT(to_json(o, Flag::Part::kData).dump().find("\\\\xFF.csv") != std::string::npos);
  const char* words[] = {"train", "\xC3\xA9\xFE"};
  EXPECT(command_text(2, words) == "train '\xC3\xA9\\xFE'");
  o = {};
  o.cache = "", o.out = "it's [mine]";
  EXPECT(echo(o) == R"(--out 'it'\''s [mine]' --cache '')");
}

TEST_CASE("options: seeds and configurations") {
  EXPECT(parse_seeds("3") == std::vector<int>{0, 1, 2});
  EXPECT(parse_seeds("3,") == std::vector<int>{3});
  EXPECT(parse_seeds("0,4-6,5") == std::vector<int>{0, 4, 5, 6});
  for (const char* bad : {"", "0", "-1", "a", "5-3", "1,x"})
    EXPECT(contains(error_of([&] { parse_seeds(bad); }), "--seeds"));
  EXPECT(parse_configs("all").size() == configurations().size());
  EXPECT(parse_configs("dense,softmax-moe,dense") == std::vector<std::string>{"dense", "softmax-moe"});
  EXPECT(contains(error_of([] { parse_configs("dense,sotfmax"); }), "softmax-moe"));
}

TEST_CASE("options: config.json keeps the flags that change a result") {
  Options o;
  o.lr = 0.25;
  o.second_residual = true;
  EXPECT(to_json(o, Flag::Part::kTrain).at("lr") == 0.25);
  EXPECT(to_json(o, Flag::Part::kModel).at("top_k") == 2);
  EXPECT(to_json(o, Flag::Part::kProtocol).at("second_residual") == true);
  EXPECT(!to_json(o, Flag::Part::kTrain).contains("out"));
}

TEST_CASE("progress: columns stay where they are") {
  RunProgress p;
  p.step = 120, p.total = 376, p.losses = {{"loss", 0.53}, {"ce", 0.52}};
  const std::string dense = progress_line("seed0/dense", p);
  p.losses.set("balance", 0.1), p.losses.set("energy", 0.13);
  p.accuracy = 0.9, p.split = "validation";
  const std::string moe = progress_line("seed0/astrocyte-hierarchical", p);
  EXPECT(dense.size() == moe.size());
  EXPECT(dense.find("tok/s") == moe.find("tok/s"));
  p.losses.set("switch", 1.0625);
  EXPECT(contains(progress_line("seed0/astrocyte-hierarchical", p), " bal 0.1000  en 0.1300  switch 1.0625"));
  EXPECT(clock_text(7) == "0:07");
  EXPECT(clock_text(760) == "12:40");
  EXPECT(clock_text(3753) == "1:02:33");
  EXPECT(clock_text(-1) == "-:--");
  EXPECT(short_count(950) == "950");
  EXPECT(short_count(12345) == "12.3k");
}
