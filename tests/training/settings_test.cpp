// Which settings make a run another one, what is refused, and what ends a run.
#include <cmath>
#include <filesystem>

#include "engine/core/file.h"
#include "experiments/records/recompute.h"
#include "experiments/training/schedule.h"
#include "tests/nn/helpers.h"
#include "tests/temporary_folder.h"
#include "tests/test.h"
#include "tests/training/tiny_run.h"

namespace fs = std::filesystem;
using namespace glia;
using namespace glia::test;

TEST_CASE("experiment: another value of any flag makes another run, there and back") {
  const Options o = tiny({"--max-steps", "2"});
  const Dataset data = load_data(o);
  const RunSpec spec = plan_runs(o, {"softmax-moe"}).at(0);
  const auto record = [&](const RunSpec& s) {
    return run_identity(results::to_json(run_config(s, data, 1, "cpu", "x")));
  };
  const results::Json usual = record(spec);
  std::set<std::string> seen;
  for (const Flag& flag : flags()) {
    RunSpec other = spec;
    if (const auto* text = std::get_if<std::string Options::*>(&flag.member)) {
      for (const std::string& choice : flag_choices(flag.name))
        if (choice != other.options.*(*text)) other.options.*(*text) = choice;
      if (other.options.*(*text) == spec.options.*(*text)) other.options.*(*text) += "x";
    } else if (const auto* count = std::get_if<int64_t Options::*>(&flag.member)) {
      ++(other.options.*(*count));
    } else if (const auto* number = std::get_if<double Options::*>(&flag.member)) {
      other.options.*(*number) += 0.125;
    } else if (const auto* on = std::get_if<bool Options::*>(&flag.member)) {
      other.options.*(*on) = !(other.options.*(*on));
    } else {
      continue;
    }
    results::Json changed;
    try {
      changed = record(other);
    } catch (const Error&) {
      continue;  // a task of that name, say
    }
    INFO(flag.name, ": ", changed_setting(usual, changed), "; ", changed_setting(changed, usual));
    const bool differs = changed != usual;
    EXPECT((changed_setting(usual, changed) != "") == differs);
    EXPECT((changed_setting(changed, usual) != "") == differs);
    if (differs) seen.insert(flag.name);
    // And nobody's table has both, but for what computes the same in another precision or order.
    if (!differs || std::set<std::string>{"gradients", "reduction", "chunks"}.contains(flag.name)) continue;
    if (flag.part != Flag::Part::kTrain && flag.part != Flag::Part::kProtocol) continue;
    results::Run a, b;
    a.folder = "a", b.folder = "b";
    a.config = run_config(spec, data, 1, "cpu", "x"), b.config = run_config(other, data, 1, "cpu", "x");
    for (int turn = 0; turn < 2; ++turn, std::swap(a, b))
      EXPECT(contains(error_of([&] { results::require_comparable({a, b}); }), "must have the same"));
  }
  for (const char* name :
       {"lr", "freeze", "train", "lr-of", "weight-decay-of", "loss-scale", "micro-batches", "reduction",
        "adam-state", "gradients", "csv-separator", "only-topics", "padding", "epochs"}) {
    INFO(name);
    EXPECT(seen.contains(name));
  }
  // Of the losses and options that a router takes those that are typed.
  RunSpec other = spec;
  other.model.moe.options.set("orthogonality-loss", 0.5);
  EXPECT(contains(changed_setting(record(other), usual), "model.orthogonality_loss is 0.5, and none is asked for"));
  EXPECT(
      contains(changed_setting(usual, record(other)), "model.orthogonality_loss is not set, and 0.5 is asked for"));
}

TEST_CASE("experiment: results of other settings are refused, not overwritten") {
  const TemporaryFolder out("refuse");
  Options o = tiny({"--max-steps", "2"});
  o.out = out.path;
  const Dataset data = load_data(o);
  const RunSpec spec = plan_runs(o, {"dense"}).at(0);
  REQUIRE(run_one(o, "dense", data).failure == "");
  const std::string before = read_file(spec.folder + "/eval.json");
  RunSpec other = spec;
  other.options.lr = 0.5;
  const uint64_t hash = data_fingerprint(data);
  EXPECT(error_of([&] {
           require_same_run(spec.folder, run_config(spec, data, hash, "another cpu", "another command"));
         }) == "");
  const std::string error =
      error_of([&] { require_same_run(spec.folder, run_config(other, data, hash, "cpu", "x")); });
  EXPECT(contains(error, "train.lr is 0.003, and 0.5 is asked for"));
  // Choices that config.json leaves out where they are float32: noticed in both directions.
  for (const auto& [key, choice] :
       {std::pair{"gradients", &Options::gradients}, {"adam_state", &Options::adam_state}}) {
    INFO(key);
    RunSpec low = spec;
    low.options.*choice = "bfloat16";
    const auto low_config = run_config(low, data, hash, "cpu", "x");
    EXPECT(contains(error_of([&] { require_same_run(spec.folder, low_config); }),
                    fmt::format("train.{} is \"float32\"", key)));
    const std::string low_folder = results::run_folder(o.out, key == std::string("gradients") ? 1 : 2, "dense");
    results::begin_run(low_folder, low_config, false);
    EXPECT(error_of([&] { require_same_run(low_folder, low_config); }) == "");
    EXPECT(contains(error_of([&] { require_same_run(low_folder, run_config(spec, data, hash, "cpu", "x")); }),
                    fmt::format("train.{} is \"bfloat16\"", key)));
    EXPECT(!contains(read_file(spec.folder + "/config.json"), "adam_state"));
    EXPECT(contains(read_file(low_folder + "/config.json"), key));
  }
  EXPECT(contains(error_of([&] { require_same_run(spec.folder, run_config(spec, data, hash + 1, "cpu", "x")); }),
                  "data_hash"));
  EXPECT(read_file(spec.folder + "/eval.json") == before);
}

TEST_CASE("experiment: what cannot be meant is named before anything is read or written") {
  const TemporaryFolder out("not-meant");
  Options o = tiny({"--cells", "no-such-cell", "--max-steps", "2"});
  o.out = out.path + "/results";
  const auto error = [&] { return error_of([&] { run_experiment(o, find_study("ahr"), {"dense"}, "x"); }); };
  EXPECT(contains(error(), "--cells: expected a study with a grid, and ahr has none"));
  o = tiny({"--freeze", "nobody.*", "--dry-run", "on", "--estimate", "on"});
  o.out = out.path + "/results";
  EXPECT(contains(error(), "--freeze nobody.*: expected a pattern that matches a parameter"));
  EXPECT(!std::filesystem::exists(o.out));
  o.dry_run = false;
  EXPECT(contains(error(), "--freeze nobody.*"));
  for (const char* file : {"pretraining.json", "model.safetensors"}) {
    write_file_atomic(o.out + "/" + file, "");
    EXPECT(contains(error(), fmt::format("{}: holds a model ({}), no results", o.out, file)));
    std::filesystem::remove(o.out + "/" + file);
  }
}

TEST_CASE("experiment: a finished run finds its data again by its own folder, whatever vocabulary was typed") {
  const TemporaryFolder out("vocabulary");
  write_file_atomic(out.path + "/v.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nteam\nmarket\nTeam\n##s\n");
  std::string rows = "label,text\n";
  for (int i = 0; i < 40; ++i) rows += i % 2 ? "a,Team team s\n" : "b,market teams\n";
  write_file_atomic(out.path + "/t.csv", rows);
  // Capitals in the vocabulary would keep the texts' case: that they were lowered all the same has to be kept.
  Options o = tiny({"--max-steps", "2", "--dataset", "csv", "--csv-train", (out.path + "/t.csv").c_str(), "--vocab",
                    (out.path + "/v.txt").c_str(), "--lowercase", "on"});
  o.out = out.path + "/results";
  REQUIRE(run_experiment(o, find_study("ahr"), {"softmax-moe"}, "x") == 0);
  const results::Run run = results::read_run(results::run_folder(o.out, 0, "softmax-moe"));
  Options saved = saved_options(run);
  saved.cache = "";
  EXPECT(saved.vocab == std::filesystem::absolute(o.out + "/vocab.txt").string());
  EXPECT(saved_data(run, saved).vocabulary().size() == 9);
  EXPECT(saved_tokenizer(run, "").lowercase());
}

TEST_CASE("experiment: --check-finite names the first op whose output is no number") {
  const TemporaryFolder out("finite");
  Options o = tiny({"--lr", "1e30", "--clip", "0", "--check-finite", "on"});
  EXPECT(!o.graphs);
  o.out = out.path;
  const Dataset data = load_data(o);
  const RunOutcome outcome = run_one(o, "softmax-moe", data);
  EXPECT(contains(outcome.failure, "the first op whose output is not finite"));
}

TEST_CASE("experiment: a loss that is not a number ends the run with its reason, and the run only") {
  const TemporaryFolder out("nan");
  Options o = tiny({"--lr", "1e30", "--clip", "0", "--warmup", "0"});
  o.out = out.path;
  const Dataset data = load_data(o);
  const RunOutcome outcome = run_one(o, "dense", data);
  EXPECT(!outcome.ok);
  EXPECT(contains(outcome.failure, "nan at step"));
  // An evaluation that comes before the losses are read finds it first.
  Options early =
      tiny({"--lr", "1e30", "--clip", "0", "--warmup", "0", "--log-every", "1000", "--eval-every", "3"});
  early.out = out.path;
  EXPECT(contains(run_one(early, "softmax-moe", data).failure, "evaluation: the gates of layer 1 sum to "));
  const results::Run run = results::read_run(results::run_folder(o.out, 0, "dense"));
  REQUIRE(run.state == results::RunState::failed);
  EXPECT(run.failure->reason == outcome.failure);
  o = tiny({"--max-steps", "2"});
  o.out = out.path;
  EXPECT(run_one(o, "softmax-moe", data).ok);
}

TEST_CASE("experiment: a router that chooses nobody any more has a result") {
  const TemporaryFolder out("nobody");
  Options o = tiny({"--lr", "0.1"});
  o.out = out.path;
  const Dataset data = load_data(o);
  RunSpec spec = plan_runs(o, {"softmax-moe"}).at(0);
  spec.model.moe.router = router_with_option("sparsity-weight");
  spec.model.moe.options.set("sparsity-weight", 100.0);
  spec.model.moe.options.set("sparsity-factor", 1.0001);
  Progress progress(Progress::Mode::kOff, stdout);
  const RunOutcome outcome = execute_run(spec, data, data_fingerprint(data), Device::cpu(), "test", progress,
                                         progress.start(spec.title(), 1));
  REQUIRE(outcome.failure == "");
  const results::Run run = results::read_run(spec.folder);
  REQUIRE(run.state == results::RunState::done);
  EXPECT(run.evaluation->layers[0].scalar("unrouted") == 1);
  EXPECT(std::isnan(run.evaluation->layers[0].scalar("specialisation")));
  EXPECT(contains(outcome.line, "specialisation n/a"));
}
