#include "tools/benchmarks/ranks.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "engine/core/build_info.h"
#include "engine/core/file.h"
#include "engine/core/message.h"
#include "experiments/pretraining/run.h"
#include "experiments/pretraining/text_feed.h"
#include "experiments/training/feed/data_source.h"
#include "experiments/training/ranks.h"
#include "experiments/training/run.h"
#include "experiments/training/training.h"
#include "tools/benchmarks/command.h"

namespace glia {
namespace {

using Json = nlohmann::ordered_json;

// What is trained by so many ranks, with as much for each as one has.
using PlanOf = std::function<TrainingPlan(int64_t ranks)>;

// What a rank sends each step, in MiB: gradients that are summed beside backward (half of those that are summed part by part, which
// send half as much), and behind it; gradients of the words that its tokens have, to every other rank; updated weights; rows to other ranks' experts
// and back, forward and backward, likewise to every other rank.
struct Sent {
  double low = 0, rest = 0, words = 0, gathered = 0, rows = 0;
};
Sent sent_by(Trainer& trainer, const TrainingPlan& plan, int64_t ranks) {
  const ParameterSet& p = trainer.model().parameters();
  const AdamW& optimiser = trainer.optimiser();
  const double mib = 1 << 20;
  const auto bytes = [&](int64_t n, DType dtype) { return static_cast<double>(n * size_of(dtype)) / mib; };
  const DType type = p.values().dtype();
  const int64_t words = optimiser.rows_of_all_ranks() ? p.table()->shape.numel() : 0;
  const int64_t tokens = plan.feed.tokens / ranks, hidden = plan.model.bert.hidden;
  int64_t low = p.low_size(), rest = p.trained_size() - p.low_size() - words;
  bool divided = false;
  for (const Parameter& e : p.all()) {
    if (!optimiser.own(e)) continue;
    (e.offset < p.low_size() ? low : rest) -= e.shape.numel();
    divided = true;
  }
  for (const ElementRange& range : optimiser.scattered()) low -= (range.end - range.begin) / 2;
  const int64_t layers = plan.model.bert.layers - (plan.model.last_layer_cls_only ? 1 : 0);
  return {bytes(low, DType::kBFloat16), bytes(rest, type),
          bytes(trainer.words_sent() * hidden, p.low_size() > 0 ? plan.model.compute : type),
          static_cast<double>(optimiser.gathered_bytes()) / mib,
          divided ? bytes(4 * layers * tokens * hidden, plan.model.compute) : 0};
}

struct Speed {
  double ms = 0, tokens_a_second = 0, peak_gib = 0, moments_mib = 0;
  std::string ranks;
  Sent sent;
};

Speed speed_of(const Options& options, const RunModel& model, const PlanOf& plan_of, const Ranks& who,
               int64_t ranks, int64_t steps) {
  Options o = options;
  o.ranks = ranks, o.log_every = 1 << 10;  // nobody reads the losses
  const TrainingPlan plan = plan_of(ranks);
  Speed speed;
  who.run(o, Device::parse(o.device), 42, [&](Context& context) {
    Trainer trainer(context, plan, o, model, 42, {});
    context.allocator().reset_peak();  // a replayed graph asks for nothing: its capture does
    // Twice before: so every shape's graph is captured when the clock runs.
    for (int turn = 0; turn < 2; ++turn) {
      trainer.timed_steps(steps);
      trainer.seek(0);
    }
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

// One rank is the first process', while those of a launcher wait.
int run(const BenchCommand& bench, const Options& o, const RunModel& model, const PlanOf& plan_of,
        const Ranks& who) {
  const int64_t ranks = std::max<int64_t>(2, o.ranks > 0 ? o.ranks : who.processes());
  Options scaled = o;
  scaled.ranks = ranks, scaled.batch *= ranks;
  check_batch(scaled, ranks);
  who.check(scaled);
  Json json;
  Speed one;
  for (const int64_t r : {int64_t{1}, ranks}) {
    Speed s;
    if (r > 1) s = speed_of(o, model, plan_of, who, r, bench.steps);
    else
      who.after_first([&] {
        if (who.first_process()) one = s = speed_of(o, model, plan_of, Ranks::alone(), 1, bench.steps);
      });
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
                            {"gathered_mib", s.sent.gathered},
                            {"rows_mib", s.sent.rows}});
  }
  json["model"] = model.name, json["vocabulary"] = plan_of(1).model.bert.vocabulary,
  json["commit"] = build_commit();
  if (!bench.json_path.empty() && who.first_process()) write_file_atomic(bench.json_path, json.dump(2) + "\n");
  return 0;
}

int run_pretraining_bench(const BenchCommand& bench, const PretrainOptions& o, const Ranks& who) {
  const Study study = find_study(o.study);
  const RunModel model = run_model(o, configuration_of(study, o.config));
  const Corpus corpus = load_corpus(corpus_options(o), nullptr);
  return run(
      bench, o, model,
      [&](int64_t ranks) {
        PretrainOptions scaled = o;
        scaled.tokens *= ranks;
        return pretraining_plan(scaled, corpus, model, int64_t{1} << 30);
      },
      who);
}

int run_training_bench(const BenchCommand& bench, const Options& options, const Ranks& who) {
  const RunSpec spec = plan_runs(options, {options.config}).front();  // with what its study sets for it
  const Dataset data = load_data(spec.options);
  return run(
      bench, spec.options, spec.model,
      [&](int64_t ranks) {
        Options scaled = spec.options;
        scaled.batch *= ranks;
        return training_plan(scaled, data, spec.model, 42);
      },
      who);
}

}  // namespace
}  // namespace glia

int bench_ranks(int argc, char** argv) {
  using namespace glia;
  Ranks ranks;
  return bench_main("bench ranks", [&] {
    bool pretraining = false;
    BenchCommand bench = split_command("bench ranks", argc, argv,
                                       [&](CLI::App& app) { app.add_flag("--pretraining", pretraining); });
    const auto with = [&](const Options& options, auto&& measure) {
      ranks = Ranks::join(options);
      try {
        return measure();
      } catch (const std::exception& error) {
        ranks.end_all("bench ranks", message_of(error));
        throw;
      }
    };
    if (pretraining) {
      bench.words.insert(bench.words.end(), {"--steps", "1000000"});
      const std::vector<const char*> words = bench.pointers();
      const PretrainCommand command = parse_pretrain(static_cast<int>(words.size()), words.data());
      return command.done
                 ? 0
                 : with(command.options, [&] { return run_pretraining_bench(bench, command.options, ranks); });
    }
    const auto options = train_options(
        bench,
        "Times a step of one rank and of --ranks [2], or of the processes that mpirun or srun started, with as many rows for "
        "each. Beside the flags below: --steps N [50], --json FILE, and --pretraining, with the flags of ./experiments/pretrain "
        "instead.");
    return options ? with(*options, [&] { return run_training_bench(bench, *options, ranks); }) : 0;
  });
}
