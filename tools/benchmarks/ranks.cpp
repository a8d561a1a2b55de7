#include "tools/benchmarks/ranks.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <functional>
#include <numeric>

#include "engine/core/build_info.h"
#include "engine/core/file.h"
#include "engine/core/message.h"
#include "experiments/pretraining/run.h"
#include "experiments/pretraining/text_feed.h"
#include "experiments/training/feed/data_source.h"
#include "experiments/training/presets.h"
#include "experiments/training/ranks.h"
#include "experiments/training/training.h"

namespace glia {
namespace {

using Json = nlohmann::ordered_json;

struct Bench {
  int64_t steps = 50;
  bool pretraining = false;
  std::string json_path;
};

// What is trained by so many ranks, with as much for each as one has.
using PlanOf = std::function<TrainingPlan(int64_t ranks)>;

// What a rank sends each step, in MiB: gradients that are summed beside backward, and behind it; gradients of its tokens' words,
// to every other rank; updated weights.
struct Sent {
  double low = 0, rest = 0, words = 0, gathered = 0;
};
Sent sent_by(Trainer& trainer, const TrainingPlan& plan, int64_t ranks) {
  const ParameterSet& p = trainer.model().parameters();
  const AdamW& optimiser = trainer.optimiser();
  const double mib = 1 << 20;
  const auto bytes = [&](int64_t n, DType dtype) { return static_cast<double>(n * size_of(dtype)) / mib; };
  const DType type = p.values().dtype();
  const int64_t words = optimiser.rows_of_all_ranks() ? p.table()->shape.numel() : 0;
  return {bytes(p.low_size(), DType::kBFloat16), bytes(p.trained_size() - p.low_size() - words, type),
          words > 0 ? bytes(plan.feed.tokens / ranks * p.table()->shape[1], plan.model.compute) : 0,
          optimiser.shared_out() ? bytes(p.trained_size(), type) : 0};
}

struct Speed {
  double ms = 0, tokens_a_second = 0, peak_gib = 0, moments_mib = 0;
  std::string ranks;
  Sent sent;
};

Speed speed_of(const Options& options, const RunModel& model, const PlanOf& plan_of, int64_t ranks, int64_t steps) {
  Options o = options;
  o.ranks = ranks, o.log_every = 1 << 10;  // nobody reads the losses
  const TrainingPlan plan = plan_of(ranks);
  Speed speed;
  Ranks::alone().run(o, Device::parse(o.device), 42, [&](Context& context) {
    Trainer trainer(context, plan, o, model, 42, {});
    // Twice before: so every shape's graph is captured when the clock runs.
    for (int turn = 0; turn < 2; ++turn) {
      trainer.timed_steps(steps);
      trainer.seek(0);
    }
    context.allocator().reset_peak();
    const int64_t before = trainer.tokens_done();
    context.communicator().barrier();
    const std::vector<double> times = trainer.timed_steps(steps);
    context.communicator().barrier();
    if (context.communicator().rank() > 0) return;
    const double total = std::accumulate(times.begin(), times.end(), 0.0);
    speed = {total / static_cast<double>(steps),
             1e3 * static_cast<double>(trainer.tokens_done() - before) / total,
             static_cast<double>(context.allocator().stats().peak) / (int64_t{1} << 30),
             static_cast<double>(trainer.optimiser().moment_bytes()) / (1 << 20),
             context.communicator().description(),
             sent_by(trainer, plan, ranks)};
  });
  return speed;
}

int run(const Bench& bench, const Options& o, const RunModel& model, const PlanOf& plan_of) {
  const int64_t ranks = std::max<int64_t>(2, o.ranks);
  Json json;
  Speed one;
  for (const int64_t r : {int64_t{1}, ranks}) {
    const Speed s = speed_of(o, model, plan_of, r, bench.steps);
    if (r == 1) one = s;
    const double kept = s.tokens_a_second / (one.tokens_a_second * static_cast<double>(r));
    fmt::print(
        "{:<28} {:.3f} ms a step, {:.0f} tokens/s, {:.1f} % of {} times one rank; {:.2f} GiB peak a rank, {:.1f} MiB of moments\n",
        s.ranks, s.ms, s.tokens_a_second, 100 * kept, r, s.peak_gib, s.moments_mib);
    std::fflush(stdout);
    json["runs"].push_back({{"ranks", r},
                            {"what", s.ranks},
                            {"step_ms", s.ms},
                            {"tokens_per_s", s.tokens_a_second},
                            {"weak_scaling", kept},
                            {"moments_mib", s.moments_mib},
                            {"low_mib", s.sent.low},
                            {"rest_mib", s.sent.rest},
                            {"words_mib", s.sent.words},
                            {"gathered_mib", s.sent.gathered}});
  }
  json["model"] = model.name, json["vocabulary"] = plan_of(1).model.bert.vocabulary,
  json["commit"] = build_commit();
  if (!bench.json_path.empty()) write_file_atomic(bench.json_path, json.dump(2) + "\n");
  return 0;
}

int run_pretraining_bench(const Bench& bench, const PretrainOptions& o) {
  const RunModel model = run_model(o, configuration_of(find_study(o.study), o.config));
  const Corpus corpus = load_corpus(corpus_options(o), nullptr);
  return run(bench, o, model, [&](int64_t ranks) {
    PretrainOptions scaled = o;
    scaled.tokens *= ranks;
    return pretraining_plan(scaled, corpus, model, int64_t{1} << 30);
  });
}

int run_training_bench(const Bench& bench, const Options& o) {
  const Dataset data = load_data(o);
  const RunModel model = run_model(o, configuration(o.config));
  return run(bench, o, model, [&](int64_t ranks) {
    Options scaled = o;
    scaled.batch *= ranks;
    return training_plan(scaled, data, model, 42);
  });
}

}  // namespace
}  // namespace glia

int bench_ranks(int argc, char** argv) {
  using namespace glia;
  try {
    Bench bench;
    CLI::App app;
    app.set_help_flag();
    app.allow_extras();
    app.add_option("--steps", bench.steps);
    app.add_flag("--pretraining", bench.pretraining);
    app.add_option("--json", bench.json_path);
    app.parse(argc, argv);
    if (bench.steps < 1) fail_input("--steps: expected at least 1, got {}", bench.steps);
    std::vector<std::string> rest = app.remaining();
    rest.insert(rest.begin(), "bench ranks");
    if (bench.pretraining) rest.insert(rest.end(), {"--steps", "1000000"});
    std::vector<const char*> words;
    for (const std::string& word : rest) words.push_back(word.c_str());
    if (bench.pretraining) {
      const PretrainCommand command = parse_pretrain(static_cast<int>(words.size()), words.data());
      return command.done ? 0 : run_pretraining_bench(bench, command.options);
    }
    const CommandLine line = parse_command_line(
        static_cast<int>(words.size()), words.data(), Flag::kTrainOnly,
        "Times a step of one rank and of --ranks [2] with as many rows for each. Beside the flags below: --steps N [50], "
        "--json FILE, and --pretraining, with the flags of ./experiments/pretrain instead.");
    if (line.done) return 0;
    return run_training_bench(bench, resolve(line));
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench ranks: {}\n", message_of(error));
    return 2;
  }
}
