// A bag of n-grams by the driver that trains the encoders, beside them in one study.
#include <filesystem>

#include "engine/core/file.h"
#include "experiments/records/export.h"
#include "experiments/records/saved_model.h"
#include "experiments/studies/study.h"
#include "experiments/training/evaluation.h"
#include "experiments/training/feed/data_source.h"
#include "experiments/training/presets.h"
#include "experiments/training/run.h"
#include "moe/cost.h"
#include "tests/nn/helpers.h"
#include "tests/temporary_folder.h"
#include "tests/training/flag_words.h"

namespace glia::test {
namespace {

Options options_of(const std::string& more, const std::string& out) {
  std::vector<std::string> words = words_of(
      "run_all " + std::string(kTinyFlags) +
      "--study zoo --progress off --synthetic-rows 800 --synthetic-test-rows 96 --vocab-size 400 --batch 8 --eval-batch 20 "
      "--epochs 3 --log-every 10 --difficulty 0.1 --out " +
      out + " " + more);
  return resolve(parse_command_line(static_cast<int>(words.size()), pointers_to(words).data(), Flag::kRunAll, ""));
}

RunSpec bag_of(const Options& o) { return plan_runs(o, {"bag-of-bigrams"}).at(0); }

TEST_CASE("bag: learns by the driver, its files are complete, and the saved model says what the trained one said") {
  const TemporaryFolder out("bag");
  const Options o = options_of("", out.path);
  const Dataset data = load_data(o);
  const RunSpec spec = bag_of(o);
  Progress progress(Progress::Mode::kOff, stdout);
  const RunOutcome outcome = execute_run(spec, data, data_fingerprint(data), Device::cpu(), "test", progress,
                                         progress.start(spec.title(), 1));
  INFO(outcome.failure);
  REQUIRE(outcome.ok);
  const results::Run run = results::read_run(spec.folder);
  REQUIRE(run.evaluation);
  const double accuracy = run.evaluation->values.get("accuracy");
  EXPECT(accuracy > 0.7);
  EXPECT(run.evaluation->layers.empty());
  EXPECT(run.config.model.at("encoder") == "bag");

  Context context(Device::cpu(), 1);
  const std::unique_ptr<Model> model = load_saved_model(context, run, DType::kFloat32);
  EXPECT(Evaluator(*model, data.test, o, data.vocabulary()).measure().values.get("accuracy") == accuracy);
  EXPECT(token_cost(model->config(), 0, 20).flops == 0);
  data.vocabulary().save(out.path + "/vocab.txt");
  EXPECT(contains(error_of([&] { export_run(run, out.path + "/export", ""); }), "is a bag of n-grams"));
}

TEST_CASE("bag: pretrained weights are for the encoders beside it; experts and masked words are refused") {
  const TemporaryFolder out("bag-refused");
  Options o = options_of("", out.path);
  o.init = "run:dense";
  const RunSpec spec = bag_of(o);
  EXPECT(spec.options.init.empty());
  EXPECT(std::ranges::find(spec.sets, "init") != spec.sets.end());
  o.init.clear();
  o.task = "masked_lm";
  EXPECT(contains(error_of([&] { bag_of(o); }), "--encoder: expected bert with this --task, got 'bag'"));
  o.task = "classification", o.encoder = "bag";
  EXPECT(contains(error_of([&] { plan_runs(o, {"switch"}); }), "expected a configuration without a router"));
}

TEST_CASE("bag: on a GPU, replayed graphs have the bits of eager steps, and the CPU agrees") {
  if (cuda_device_count() == 0) SKIP("no GPU here");
  for (const char* precision : {"float32", "bfloat16"}) {
    Options o = options_of("--bucket 128 --log-every 100", "unused");
    o.precision = precision;
    const Dataset data = load_data(o);
    const RunSpec spec = bag_of(o);
    const auto losses = [&](Device device, bool graphs) {
      Options with = spec.options;
      with.graphs = graphs;
      Context context(device, 42);
      Trainer trainer(context, data, with, spec.model, 42);
      for (int i = 0; i < 40; ++i) trainer.step();
      return trainer.read_losses();
    };
    const auto eager = losses(Device::cuda(), false), replayed = losses(Device::cuda(), true),
               cpu = losses(Device::cpu(), false);
    for (size_t i = 0; i < 40; ++i) EXPECT(eager[i].loss == replayed[i].loss);
    for (size_t i = 0; i < 5; ++i)
      EXPECT(eager[i].loss == doctest::Approx(cpu[i].loss).epsilon(o.precision == "float32" ? 1e-3 : 3e-2));
  }
}

}  // namespace
}  // namespace glia::test
