// Small runs of the training loop by one rank and by several, for tests.
#pragma once
#include "engine/comm/alone.h"
#include "engine/comm/threads.h"
#include "experiments/training/evaluation.h"
#include "experiments/training/feed/data_source.h"
#include "experiments/training/presets.h"
#include "experiments/training/ranks.h"
#include "experiments/training/training.h"
#include "nn/weights/checkpoint.h"
#include "tests/engine/mail.h"
#include "tests/nn/helpers.h"

namespace glia::test {

inline Options options_of(std::vector<const char*> more) {
  std::vector<const char*> words = {"train",
                                    "--device=cpu",
                                    "--dataset=synthetic",
                                    "--cache",
                                    "",
                                    "--synthetic-rows=170",
                                    "--synthetic-test-rows=40",
                                    "--vocab-size=300",
                                    "--layers=2",
                                    "--hidden=32",
                                    "--heads=2",
                                    "--ffn=64",
                                    "--experts=4",
                                    "--batch=10",
                                    "--eval-batch=7",
                                    "--max-length=32",
                                    "--epochs=3",
                                    "--lr=0.0005",
                                    "--warmup=0.1",
                                    "--log-every=100",
                                    "--progress=off",
                                    "--threads=1"};
  words.insert(words.end(), more.begin(), more.end());
  return resolve(parse_command_line(static_cast<int>(words.size()), words.data(), Flag::kTrainOnly, ""));
}

struct Trained {
  std::vector<double> losses, weights, evaluation;
  std::vector<std::string> part_names;
  std::vector<std::vector<double>> parts;  // a step: each loss by itself, whatever its weight
  std::vector<double> state;               // of the routers
};

// The steps on one context and what an evaluation says after them.
inline Trained train_on(Context& context, const Options& o, const char* config, const Dataset& data,
                        int64_t steps) {
  Trainer trainer(context, data, o, run_model(o, configuration(config)), 42);
  Trained t;
  for (int64_t i = 0; i < steps; ++i) trainer.step();
  for (const StepLosses& l : trainer.read_losses()) t.losses.push_back(l.loss), t.parts.push_back(l.parts);
  t.part_names = trainer.part_names();
  for (const Statistic& s : trainer.model().router_state())
    for (const double v : values(s.value)) t.state.push_back(v);
  trainer.gather_weights();
  t.weights = values(trainer.model().parameters().values());
  const Measured m = Evaluator(trainer.model(), data.test, o, data.vocabulary()).measure();
  t.evaluation = {m.values.get("accuracy"), m.values.get("loss")};
  for (const results::LayerUtilisation& layer : m.utilisation)
    t.evaluation.insert(t.evaluation.end(), layer.all.values.begin(), layer.all.values.end());
  return t;
}

inline Trained train_alone(const Options& o, const char* config, int64_t steps) {
  const Dataset data = load_data(o);
  Context context(Device::cpu(), 42);
  return train_on(context, o, config, data, steps);
}

// By `ranks` in `processes`: all ranks have the same, which is given.
inline Trained train_over(const Options& o, const char* config, const Dataset& data, int64_t steps, int ranks,
                          int processes) {
  std::vector<Trained> each(static_cast<size_t>(ranks));
  run_processes(processes, [&](Transport& transport) {
    run_ranks(
        ranks,
        [&](std::unique_ptr<Communicator> communicator) {
          const auto rank = static_cast<size_t>(communicator->rank());
          Context context(Device::cpu(), 42);
          set_ranks(context, std::move(communicator));
          each[rank] = train_on(context, o, config, data, steps);
        },
        &transport);
  });
  for (const Trained& one : each) {
    EXPECT(one.losses == each[0].losses);
    EXPECT(one.weights == each[0].weights);
    EXPECT(one.state == each[0].state);
    EXPECT(one.evaluation == each[0].evaluation);
  }
  return each[0];
}
inline Trained train_over(const Options& o, const char* config, int64_t steps, int ranks, int processes) {
  return train_over(o, config, load_data(o), steps, ranks, processes);
}

// The largest difference of losses, in relation to them.
inline double apart(const Trained& a, const Trained& b) {
  double most = 0;
  for (size_t i = 0; i < a.losses.size(); ++i)
    most = std::max(most, std::abs(a.losses[i] - b.losses[i]) / std::abs(a.losses[i]));
  return most;
}

// Trains `steps` further ones with `ranks` from the checkpoint `from`, where that is not empty, and writes another.
inline void go_on(const Options& o, const char* config, int ranks, const std::string& from, int64_t steps,
                  const std::string& to) {
  const Dataset data = load_data(o);
  run_ranks(ranks, [&](std::unique_ptr<Communicator> communicator) {
    Context context(Device::cpu(), 42);
    set_ranks(context, std::move(communicator));
    Trainer trainer(context, data, o, run_model(o, configuration(config)), 42);
    if (!from.empty()) {
      const CheckpointInfo info = load_checkpoint(from, trainer.model().parameters(), &trainer.optimiser(), {});
      trainer.seek(info.step);
    }
    for (int64_t i = 0; i < steps; ++i) trainer.step();
    const int64_t whole = 2 * trainer.model().parameters().trained_size() * int64_t{sizeof(float)};
    EXPECT(trainer.optimiser().moment_bytes() <=
           (o.shard_optimiser && ranks > 1 ? whole / ranks + 8 * ParameterSet::kAlign * ranks : whole));
    // The first rank alone says when.
    trainer.checkpoint(context.communicator().rank() == 0, [&] {
      save_checkpoint(to, trainer.model().parameters(), &trainer.optimiser(), {}, {trainer.done(), 42, "", ""});
    });
    trainer.checkpoint(false, [] { CHECK(false, "nobody found it due"); });
  });
}

}  // namespace glia::test
