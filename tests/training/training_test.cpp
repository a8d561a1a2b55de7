// Training, evaluation and the files of a run, on a model of a few thousand weights.
#include <cmath>
#include <filesystem>

#include "engine/core/file.h"
#include "experiments/records/recompute.h"
#include "experiments/records/saved_model.h"
#include "experiments/report/summary.h"
#include "experiments/training/evaluation.h"
#include "nn/weights/hugging_face.h"
#include "tests/nn/helpers.h"
#include "tests/temporary_folder.h"
#include "tests/test.h"
#include "tests/training/tiny_run.h"

namespace fs = std::filesystem;
using namespace glia;
using namespace glia::test;

TEST_CASE("experiment: all configurations of the study train and leave complete files, clean and paper") {
  for (const char* protocol : {"clean", "paper"}) {
    INFO(protocol);
    const TemporaryFolder out(std::string("nine-") + protocol);
    Options o =
        tiny({"--protocol", protocol, "--max-steps", "6", "--utilisation-rows", "24", "--max-length", "80"});
    o.out = out.path;
    const Dataset data = load_data(o);
    for (const std::string& config : parse_configs("all")) {
      INFO(config);
      const RunOutcome outcome = run_one(o, config, data);
      EXPECT(outcome.failure == "");
    }
    const results::Listing listing = results::list_runs(o.out);
    EXPECT(listing.problems.empty());
    REQUIRE(listing.runs.size() == configurations().size());
    for (const results::Run& run : listing.runs) {
      INFO(run.folder);
      REQUIRE(run.state == results::RunState::done);
      EXPECT(run.evaluation->rows == 48);
      EXPECT(fs::exists(run.folder + "/model.safetensors"));
      EXPECT(!fs::exists(run.folder + "/checkpoint.safetensors"));
      const results::Metrics metrics = results::read_metrics(run.folder);
      REQUIRE(metrics.train.size() == 2);  // steps 4 and 6
      EXPECT(metrics.train.back().step == 6);
      EXPECT(std::isfinite(metrics.train.back().values.get("loss")));
      const results::TrainPoint& p = metrics.train.back();
      const auto part = [&](const char* name) { return p.values.get(name); };
      EXPECT(part("loss") ==
             doctest::Approx(part("ce") + run.config.balance * part("balance") + run.config.energy * part("energy"))
                 .epsilon(1e-5));
      REQUIRE(metrics.evals.size() == 1);
      EXPECT(metrics.evals.back().split == (std::string(protocol) == "paper" ? "test" : "validation"));
      if (!run.config.moe()) continue;
      for (const bool cls : {false, true})
        for (const results::Matrix& u : results::read_run_utilisation(run, cls).layers)
          for (int c = 0; c < u.rows; ++c) {
            double sum = 0;
            for (int e = 0; e < u.cols; ++e) sum += u(c, e);
            EXPECT(sum == doctest::Approx(1).epsilon(1e-5));
          }
    }
    // The specialisation is that of the 24 rows, in either protocol: from the checkpoint it comes out the same.
    const results::Run run = results::read_run(results::run_folder(o.out, 0, "astrocyte"));
    Options saved = saved_options(run);
    saved.cache = "";
    const auto first_layer = [&] { return recompute(run, saved, Device::cpu()).utilisation.at(0).all.values; };
    const std::vector<double> stored = results::read_run_utilisation(run, false).layers.at(0).values;
    EXPECT(first_layer() == stored);
    saved.utilisation_rows = 0;
    EXPECT(first_layer() != stored);
    saved.difficulty = 0.9;
    EXPECT(contains(error_of(first_layer), "expected the data it was trained on"));
    results::write_summary(o.out, results::summarise(o.out));
    EXPECT(results::read_summary(o.out).configs.size() == configurations().size());
  }
}

TEST_CASE("experiment: a small model learns the synthetic corpus, and the best model is the one that counts") {
  const TemporaryFolder out("learns");
  Options o = tiny(
      {"--synthetic-rows", "800", "--epochs", "6", "--eval-every", "0", "--hidden", "32", "--difficulty", "0"});
  o.out = out.path;
  const Dataset data = load_data(o);
  REQUIRE(run_one(o, "softmax-moe", data).failure == "");
  const results::Run run = results::read_run(results::run_folder(o.out, 0, "softmax-moe"));
  const results::Metrics metrics = results::read_metrics(run.folder);
  EXPECT(metrics.train.back().values.get("ce") < 0.7 * metrics.train.front().values.get("ce"));
  EXPECT(run.evaluation->accuracy() > 0.5);
  double best = 0;
  int64_t best_step = 0;
  for (const results::EvalPoint& p : metrics.evals)
    if (p.accuracy() > best) best = p.accuracy(), best_step = p.step;
  EXPECT(run.evaluation->step == best_step);
  EXPECT(run.evaluation->validation_accuracy == best);
}

TEST_CASE("experiment: a model that became worse again is not the one that is tested and saved") {
  const TemporaryFolder out("worse");
  Options o = tiny(
      {"--lr", "0.005", "--warmup", "0", "--eval-every", "3", "--epochs", "8", "--validation-fraction", "0.2"});
  o.out = out.path;
  const Dataset data = load_data(o);
  REQUIRE(run_one(o, "softmax-moe", data).failure == "");
  const results::Run run = results::read_run(results::run_folder(o.out, 0, "softmax-moe"));
  const std::vector<results::EvalPoint> evals = results::read_metrics(run.folder).evals;
  const auto best = std::ranges::max_element(evals, {}, &results::EvalPoint::accuracy);  // the first of equals
  REQUIRE(evals.back().accuracy() < best->accuracy());                                   // else this shows nothing
  EXPECT(run.evaluation->step == best->step);
  EXPECT(run.evaluation->validation_accuracy == best->accuracy());
  // The saved weights are those: they give the validation accuracy of that step.
  Context context(Device::cpu());
  const auto model = load_saved_model(context, run, DType::kFloat32);
  EXPECT(Evaluator(*model, data.validation, o, data.vocabulary()).measure().values.get("accuracy") ==
         best->accuracy());
  EXPECT(Evaluator(*model, data.test, o, data.vocabulary()).measure().values.get("accuracy") ==
         run.evaluation->accuracy());
}

TEST_CASE("experiment: a run belongs to one at a time") {
  const TemporaryFolder out("lock");
  RunLock first(out.path, "seed0/dense"), second(out.path, "seed0/dense"), other(out.path, "seed1/dense");
  EXPECT(first.try_lock());
  EXPECT(!second.try_lock());
  EXPECT(other.try_lock());
}

// A rate that moves the weights and one that leaves them, so that the chosen step is a later one and the first; what the
// router remembers goes on in both.
TEST_CASE("experiment: saved and tested is the model of the step that was chosen, what its router remembers too") {
  struct Case {
    const char *select, *rate, *precision;
  };
  for (const auto& [select, rate, precision] : {Case{"validation", "1e-9", "float32"},
                                                {"validation", "0.003", "bfloat16"},
                                                {"validation", "1e-9", "bfloat16"},
                                                {"last", "0.003", "float32"}}) {
    INFO(std::string(select), ", rate ", std::string(rate), ", ", std::string(precision));
    const TemporaryFolder out("chosen-step");
    Options o = tiny({"--select", select, "--lr", rate, "--precision", precision, "--eval-every", "5"});
    o.out = out.path;
    const Dataset data = load_data(o);
    RunSpec spec = plan_runs(o, {"softmax-moe"}).at(0);
    spec.model.moe.router = router_with_option("bias-rate");
    spec.model.moe.options.set("bias-rate", 0.3);
    Progress progress(Progress::Mode::kOff, stdout);
    const int id = progress.start(spec.title(), 1);
    REQUIRE(execute_run(spec, data, data_fingerprint(data), Device::cpu(), "test", progress, id).failure == "");
    const results::Run run = results::read_run(results::run_folder(o.out, 0, "softmax-moe"));
    const std::vector<results::EvalPoint> evals = results::read_metrics(run.folder).evals;
    REQUIRE(evals.size() >= 4);
    size_t chosen = 0;  // of equals the first
    for (size_t i = 1; i < evals.size(); ++i)
      if (select == std::string("last") || evals[i].values.get("accuracy") > evals[chosen].values.get("accuracy"))
        chosen = i;
    EXPECT(run.evaluation->step == evals[chosen].step);
    Context context(Device::cpu(), 42);
    const auto model =
        load_saved_model(context, run, spec.options.precision == "bfloat16" ? DType::kBFloat16 : DType::kFloat32);
    const auto measured = [&](const TokenSplit& split) {
      return Evaluator(*model, split, o, data.vocabulary()).measure();
    };
    const Measured validated = measured(data.validation);
    const auto is_that_of = [&](const results::EvalPoint& e) {
      bool same = e.values.get("loss") == validated.values.get("loss");
      for (size_t l = 0; l < e.layers.size(); ++l)
        same = same && e.layers[l].loads() == validated.layers[l].loads();
      return same;
    };
    EXPECT(is_that_of(evals[chosen]));
    EXPECT(is_that_of(evals[chosen == 0 ? evals.size() - 1 : 0]) == false);
    EXPECT(run.evaluation->values.get("loss") == measured(data.test).values.get("loss"));
  }
}

TEST_CASE("data: --max-rows keeps the classes' shares") {
  const TemporaryFolder out("cut");
  std::string rows = "label,text\n";
  for (int i = 0; i < 80; ++i) rows += fmt::format("{},word {}\n", i < 60 ? "a" : "b", i);  // sorted by class
  write_file_atomic(out.path + "/rows.csv", rows);
  const std::string file = out.path + "/rows.csv";
  const Options o = tiny({"--dataset", "csv", "--csv-train", file.c_str(), "--csv-test", file.c_str(), "--max-rows",
                          "20", "--max-test-rows", "8", "--validation-fraction", "0.1"});
  const Dataset data = load_data(o);
  EXPECT(std::ranges::count(data.train.labels, 0) == 15);
  EXPECT(std::ranges::count(data.train.labels, 1) == 5);
  // Validation is cut by the same share: 6 + 2 rows of 80, of which 20 of 72 are kept.
  EXPECT(std::ranges::count(data.validation.labels, 0) == 2);
  EXPECT(std::ranges::count(data.validation.labels, 1) == 1);
  EXPECT(std::ranges::count(data.test.labels, 0) == 6);
  EXPECT(std::ranges::count(data.test.labels, 1) == 2);
}

TEST_CASE(
    "experiment: where every test row is a near copy no accuracy without them is written, and the run is read again") {
  const TemporaryFolder out("copies");
  std::string rows = "label,text\n";
  for (int i = 0; i < 80; ++i)
    rows += fmt::format("{},one two three four five six seven eight nine of {}\n", i % 2 ? "a" : "b",
                        i % 2 ? "a" : "b");
  write_file_atomic(out.path + "/rows.csv", rows);
  const std::string file = out.path + "/rows.csv";
  Options o = tiny({"--dataset", "csv", "--csv-train", file.c_str(), "--csv-test", file.c_str()});
  o.out = out.path + "/results";
  const Dataset data = load_data(o);
  REQUIRE(run_one(o, "softmax-moe", data).failure == "");
  const results::Run run = results::read_run(results::run_folder(o.out, 0, "softmax-moe"));
  REQUIRE(run.evaluation.has_value());
  EXPECT(run.evaluation->near_copies == run.evaluation->rows);
  EXPECT(!run.evaluation->values.contains(results::kAccuracyWithoutNearCopies));
}

TEST_CASE("experiment: of equally good evaluations the first one's model counts") {
  const TemporaryFolder out("equals");
  Options o = tiny({"--lr", "1e-30"});  // nothing moves, so all are equal
  o.out = out.path;
  const Dataset data = load_data(o);
  REQUIRE(run_one(o, "softmax-moe", data).failure == "");
  const std::string folder = results::run_folder(o.out, 0, "softmax-moe");
  const std::vector<results::EvalPoint> evals = results::read_metrics(folder).evals;
  REQUIRE(evals.size() == 2);
  EXPECT(evals[0].accuracy() == evals[1].accuracy());
  EXPECT(results::read_run(folder).evaluation->step == evals[0].step);
}

TEST_CASE("training: rows of nobody behind a batch change nothing, and the same seed gives the same bits") {
  Options o = tiny();
  const Dataset data = load_data(o);
  const RunModel run = run_model(o, configuration("astrocyte-hierarchical"));
  const auto losses = [&](int64_t bucket, uint64_t seed) {
    Options with = o;
    with.bucket = bucket;
    Context context(Device::cpu(), seed);
    Trainer trainer(context, data, with, run, seed);
    for (int i = 0; i < 4; ++i) trainer.step();
    return trainer.read_losses();
  };
  const auto exact = losses(1, 42), again = losses(1, 42), rounded = losses(512, 42), other = losses(1, 43);
  REQUIRE(exact.size() == 4);
  for (size_t i = 0; i < exact.size(); ++i) {
    EXPECT(exact[i].loss == again[i].loss);
    EXPECT(exact[i].loss == doctest::Approx(rounded[i].loss).epsilon(1e-4));
    EXPECT(exact[i].loss != other[i].loss);
    EXPECT(exact[i].parts.size() == 3);  // ce, balance, energy
  }
}

TEST_CASE("training: on a GPU, replayed graphs have the bits of eager steps, and the CPU agrees") {
  if (cuda_device_count() == 0) SKIP("no GPU here");
  for (const char* config : {"dense", "astrocyte-hierarchical", "astrocyte-meanpool"})
    for (const auto& [precision, gradients] :
         {std::pair{"float32", "float32"}, {"bfloat16", "float32"}, {"bfloat16", "bfloat16"}}) {
      INFO(config, " ", precision, ", gradients ", gradients);
      Options o = tiny({"--hidden", "64", "--heads", "1", "--ffn", "128", "--epochs", "3", "--bucket", "128",
                        "--log-every", "100"});
      o.precision = precision, o.gradients = gradients;
      const Dataset data = load_data(o);
      const RunModel run = run_model(o, configuration(config));
      const auto losses = [&](Device device, bool graphs) {
        Options with = o;
        with.graphs = graphs;
        Context context(device, 42);
        Trainer trainer(context, data, with, run, 42);
        for (int i = 0; i < 40; ++i) trainer.step();  // few buckets, so most steps are replays
        return trainer.read_losses();
      };
      const auto eager = losses(Device::cuda(), false), replayed = losses(Device::cuda(), true);
      REQUIRE(eager.size() == 40);
      for (size_t i = 0; i < eager.size(); ++i) {
        EXPECT(eager[i].loss == replayed[i].loss);
        EXPECT(eager[i].parts == replayed[i].parts);
      }
      const auto cpu = losses(Device::cpu(), false);
      const double tolerance = o.precision == "float32" ? 1e-3 : 3e-2;  // dropout drops the same elements on both
      for (size_t i = 0; i < 5; ++i) EXPECT(eager[i].loss == doctest::Approx(cpu[i].loss).epsilon(tolerance));
    }
}

TEST_CASE("training: word rows that wait for their updates change no bit of losses, evaluations and weights") {
  for (const Device device :
       cuda_device_count() > 0 ? std::vector{Device::cpu(), Device::cuda()} : std::vector{Device::cpu()})
    for (const char* precision : {"float32", "bfloat16"}) {
      INFO(device.str(), " ", precision);
      Options o = tiny({"--hidden", "64", "--heads", "1", "--ffn", "128", "--epochs", "3", "--bucket", "128",
                        "--log-every", "100"});
      o.precision = precision;
      const Dataset data = load_data(o);
      const RunModel run = run_model(o, configuration("astrocyte-hierarchical"));
      const auto train = [&](bool lazy) {
        Options with = o;
        with.lazy_embedding = lazy;
        Context context(device, 42);
        Trainer trainer(context, data, with, run, 42);
        Evaluator evaluator(trainer.model(), data.test, with, data.vocabulary());
        std::vector<double> all;
        for (int i = 0; i < 45; ++i) {
          trainer.step();
          if (i == 20) all.push_back(evaluator.measure().values.get("loss"));
          if (i == 30) trainer.seek(11);  // the rotation goes on, whatever the step's number
        }
        for (const StepLosses& s : trainer.read_losses()) all.push_back(s.loss);
        const ParameterSet& parameters = trainer.model().parameters();
        for (const Tensor& t : {parameters.values(), trainer.optimiser().m(), trainer.optimiser().v()}) {
          const std::vector<double> v = t.to_vector<double>();
          all.insert(all.end(), v.begin(), v.end());
        }
        return all;
      };
      EXPECT(train(true) == train(false));
    }
}

TEST_CASE("training: a step in the middle of an epoch is the same whether one came there by steps or by seek()") {
  Options o = tiny({"--epochs", "2"});
  const Dataset data = load_data(o);
  Context context(Device::cpu(), 42);
  Trainer trainer(context, data, o, run_model(o, configuration("dense")), 42);
  const int64_t per_epoch = trainer.steps_per_epoch();
  trainer.step();
  trainer.seek(per_epoch + 1);
  EXPECT(trainer.done() == per_epoch + 1);
  trainer.step();
  EXPECT(trainer.done() == per_epoch + 2);
  EXPECT(trainer.read_losses().size() == 1);
  EXPECT(contains(error_of([&] { trainer.seek(trainer.total() + 1); }), "step"));
  // Past the last batch there is none.
  trainer.seek(trainer.total());
  EXPECT(contains(error_of([&] { trainer.step(); }), "no batch is left"));
}

TEST_CASE("training: --init gives dense its weights; dense-random-ffn has fresh FFNs with and without it") {
  const TemporaryFolder out("init");
  Options o = tiny();
  const Dataset data = load_data(o);
  Context context(Device::cpu());
  const std::string file = out.path + "/pretrained.safetensors";
  const auto weights = [&](const char* config, uint64_t seed, bool save = false) {
    Trainer trainer(context, data, o, run_model(o, configuration(config)), seed);
    if (save) export_hugging_face(file, trainer.model().parameters(), {});
    std::map<std::string, std::vector<double>> all;
    for (const Parameter& p : trainer.model().parameters().all()) all[p.name] = p.var.value().to_vector<double>();
    return all;
  };
  const auto is_fresh = [](const std::string& name) { return contains(name, ".ffn.") && name.ends_with("weight"); };
  const auto dense = weights("dense", 42), random = weights("dense-random-ffn", 42);
  for (const auto& [name, values] : dense) {
    INFO(name);
    EXPECT((values != random.at(name)) == is_fresh(name));
  }
  const auto pretrained = weights("dense", 7, true);
  o.init = file;
  const auto from_dense = weights("dense", 42), from_random = weights("dense-random-ffn", 42);
  for (const auto& [name, values] : pretrained) {
    INFO(name);
    if (name.starts_with("classifier.")) continue;  // fresh, as it should be
    EXPECT(from_dense.at(name) == values);
    EXPECT((from_random.at(name) != values) == is_fresh(name));
  }
}

TEST_CASE("evaluation: accuracy, loss and utilisation agree with a row-by-row count") {
  Options o = tiny({"--eval-batch", "7"});
  const Dataset data = load_data(o);
  Context context(Device::cpu(), 42);
  const RunModel run = run_model(o, configuration("astrocyte"));
  Model model(context, model_config(o, run, data), 42);
  // Losses that differ from row to row: a fresh model's are all ln 4.
  model.parameters().redraw(model.parameters().get("classifier.weight"), Init::normal(2), 1);
  const Measured m = Evaluator(model, data.test, o, data.vocabulary()).measure();
  EXPECT(m.rows == data.test.size());
  Options single = o;
  single.eval_batch = 1;
  single.bucket = 1;
  const Measured one = Evaluator(model, data.test, single, data.vocabulary()).measure();
  EXPECT(m.values.get("accuracy") == one.values.get("accuracy"));
  EXPECT(m.values.get("loss") == doctest::Approx(one.values.get("loss")).epsilon(1e-5));
  REQUIRE(m.layers.size() == 2);
  for (size_t l = 0; l < 2; ++l)
    EXPECT(m.layers[l].scalar("specialisation") ==
           doctest::Approx(one.layers[l].scalar("specialisation")).epsilon(1e-3).scale(0));
  double mean = 0;
  for (const double a : m.class_accuracy) mean += a / static_cast<double>(m.class_accuracy.size());
  EXPECT(mean == doctest::Approx(m.values.get("accuracy")));  // the test set is balanced
  const Measured part = Evaluator(model, data.test, o, data.vocabulary(), 11).measure();
  EXPECT(part.rows == 11);
}

TEST_CASE("evaluation: a part of the rows is drawn from all of them, the same each time") {
  TokenSplit split;
  for (int row = 0; row < 100; ++row) {
    split.ids.push_back(row), split.offsets.push_back(row + 1), split.labels.push_back(row);
  }
  const TokenSplit part = part_of(split, 20);
  REQUIRE(part.size() == 20);
  EXPECT(part.labels == part_of(split, 20).labels);
  EXPECT(*std::ranges::max_element(part.labels) > 60);
  EXPECT(std::ranges::equal(part.labels, part.ids));
  std::vector<int32_t> sorted = part.labels;
  std::ranges::sort(sorted);
  EXPECT(std::ranges::adjacent_find(sorted) == sorted.end());
  EXPECT(part_of(split, 0).size() == 100);
}

// A configuration's model with the router that has such an option, at its usual value.
static RunModel model_with_option(const Options& o, const char* option) {
  RunModel run = run_model(o, configuration("astrocyte"));
  run.moe.router = router_with_option(option);
  run.moe.options = {};
  return run;
}

TEST_CASE("evaluation: a token's experts are counted over all tokens, those without one too") {
  const Options o = tiny({});
  const Dataset data = load_data(o);
  Context context(Device::cpu(), 42);
  const RunModel run = model_with_option(o, "sparsity-factor");
  Model model(context, model_config(o, run, data), 42);
  Evaluator evaluator(model, data.test, o, data.vocabulary());
  double pairs = 0, tokens = 0, unrouted = 0;
  evaluator.for_each_batch([&](const Batch& batch) {
    const NoGrad no_grad(context);
    const auto real = static_cast<size_t>(batch.sequences.offsets.to_vector<int32_t>().back());
    for (const Routing& r : model.forward(batch, false).routings) {
      const auto experts = r.experts.to_vector<int32_t>();
      const size_t slots = experts.size() / static_cast<size_t>(r.experts.size(0));
      for (size_t t = 0; t < real; ++t) {
        const auto n =
            std::count_if(&experts[t * slots], &experts[t * slots] + slots, [](int e) { return e >= 0; });
        pairs += double(n), tokens += 1, unrouted += n == 0;
      }
    }
  });
  REQUIRE(unrouted > 0);
  EXPECT(std::abs(evaluator.measure().experts_a_token - pairs / tokens) < 1e-9);
}

TEST_CASE("evaluation: the words that a split is asked for are the same in every run, whatever its seed") {
  const Options o = tiny({"--task", "masked_lm"});
  const Dataset data = load_data(o);
  std::vector<double> losses;
  for (const uint64_t seed : {42, 43}) {
    Context context(Device::cpu(), seed);
    Model model(context, model_config(o, run_model(o, configuration("dense")), data), 7);
    losses.push_back(Evaluator(model, data.test, o, data.vocabulary()).measure().values.get("loss"));
  }
  EXPECT(losses[0] == losses[1]);
}

TEST_CASE("evaluation: tokens that wanted more experts than there is room for are an error") {
  const Options o = tiny({});
  const Dataset data = load_data(o);
  Context context(Device::cpu(), 42);
  RunModel run = model_with_option(o, "max-k");
  run.moe.options.set("max-k", int64_t{1});
  Model model(context, model_config(o, run, data), 42);
  EXPECT(contains(error_of([&] { Evaluator(model, data.test, o, data.vocabulary()).measure(); }), "--max-k"));
}

// A record leaves many flags out where they have their usual value: whoever goes back to it must be told too.
