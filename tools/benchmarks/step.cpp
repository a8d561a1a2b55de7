#include "tools/benchmarks/step.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "engine/core/build_info.h"
#include "engine/core/file.h"
#include "experiments/records/results.h"
#include "experiments/report/statistics.h"
#include "experiments/training/feed/data_source.h"
#include "experiments/training/progress.h"
#include "experiments/training/run.h"
#include "experiments/training/training.h"
#include "tools/benchmarks/command.h"
#include "tools/benchmarks/profile.h"
#include "tools/benchmarks/work.h"

namespace glia {
namespace {

using Json = nlohmann::ordered_json;

// One batch of a plan: packed rows, or padded ones.
StepWork work_of(const TokenSplit& split, const BatchPlan& plan, int64_t batch, bool padded, int64_t length) {
  StepWork work;
  work.sequences = work.read = static_cast<double>(plan.sequences(batch));
  for (const int32_t row : plan.rows(batch)) {
    const double n = static_cast<double>(padded ? length : split.length(row));
    work.tokens += n;
    work.pairs += n * n;
  }
  return work;
}

int run(const BenchCommand& bench, const Options& options) {
  const RunSpec spec = plan_runs(options, {options.config}).front();  // with what its study sets for it
  const Options& o = spec.options;
  const RunModel& run = spec.model;
  const Dataset data = load_data(o);
  Context context(Device::parse(o.device), 42);
  const bool gpu = context.device().is_cuda();
  const double ceiling =
      matmul_ceiling_tflops(context, o.precision == "bfloat16" ? DType::kBFloat16 : DType::kFloat32);
  context.allocator().trim();

  Trainer trainer(context, data, o, run, 42);
  const int64_t steps = std::min(bench.steps, trainer.total());
  // Here and not behind the warm-up: a replayed graph asks for nothing, what a step holds is asked for when it is captured.
  context.allocator().reset_peak();
  // On a GPU the same batches go through twice before: so every shape's graph is captured when the clock runs.
  trainer.timed_steps(gpu ? steps : std::min<int64_t>(3, steps));
  trainer.seek(0);
  if (gpu) {
    trainer.timed_steps(steps);
    trainer.seek(0);
  }
  const int64_t tokens_before = trainer.tokens_done();
  const std::vector<double> times = trainer.timed_steps(steps);
  const double total_ms = std::accumulate(times.begin(), times.end(), 0.0);
  const double tokens = static_cast<double>(trainer.tokens_done() - tokens_before);
  const auto peak = context.allocator().stats();
  const std::string memory = context.allocator().report();  // of training as it goes; the profile runs eagerly

  double flops = 0;
  const std::vector<BatchPlan> plans = training_plans(o, data, 42);
  const ModelConfig& model = trainer.model().config();
  for (int64_t i = 0; i < steps; ++i)
    flops += step_flops(model,
                        work_of(data.train, plans[static_cast<size_t>(i / trainer.steps_per_epoch())],
                                i % trainer.steps_per_epoch(), o.padding == "padded", o.max_length),
                        model.bert.classes, model.last_layer_cls_only) /
             static_cast<double>(steps);

  const StepProfile profile =
      profile_steps(context, trainer, std::min<int64_t>(steps, gpu ? 10 : 3), !run.moe.dense());
  const double ms = statistics::median(times), tflops = 1e-9 * flops / ms;
  Json json = {{"config", run.name},
               {"preset", o.preset},
               {"precision", o.precision},
               {"padding", o.padding},
               {"graphs", gpu && o.graphs},
               {"batch", o.batch},
               {"steps", steps},
               {"step_ms", ms},
               {"step_ms_min", *std::min_element(times.begin(), times.end())},
               {"step_ms_max", *std::max_element(times.begin(), times.end())},
               {"step_ms_mean", total_ms / static_cast<double>(steps)},
               {"seq_per_s", 1e3 * static_cast<double>(o.batch * steps) / total_ms},
               {"real_tokens_per_s", 1e3 * tokens / total_ms},
               {"tokens_per_step", tokens / static_cast<double>(steps)},
               {"tflop_per_step", 1e-12 * flops},
               {"tflops", tflops},
               {"matmul_ceiling_tflops", ceiling},
               {"percent_of_ceiling", 100 * tflops / ceiling},
               {"peak_gib", static_cast<double>(peak.peak) / (1 << 30)},
               {"memory", memory},
               {"parameters", trainer.model().parameters().count()},
               {"gaps_ms", ms - profile.sum_ms}};
  for (const auto& [group, group_ms] : profile.groups) json["groups_ms"][group] = group_ms;
  for (const auto& [op_ms, op] : profile.ops) json["ops_ms"][op] = op_ms;
  json["device"] = context.backend().description();
  json["commit"] = build_commit();
  json["command"] = bench.command;

  fmt::print("{}, {}, {}, batch {}, {:.0f} real tokens a step, {} parameters; {}; commit {}\n", run.name, o.preset,
             o.precision, o.batch, tokens / static_cast<double>(steps),
             short_count(static_cast<double>(trainer.model().parameters().count())),
             context.backend().description(), build_commit());
  fmt::print("step       {:.3f} ms median, {:.3f} min, {:.3f} max over {} steps{}\n", ms,
             json["step_ms_min"].get<double>(), json["step_ms_max"].get<double>(), steps,
             gpu && o.graphs ? ", CUDA graphs" : "");
  fmt::print(
      "speed      {:.0f} sequences/s, {:.0f} real tokens/s, {:.3g} TFLOP a step, {:.4g} TFLOP/s = {:.1f} % of the "
      "{:.4g} that a large matmul reaches here\n",
      json["seq_per_s"].get<double>(), json["real_tokens_per_s"].get<double>(), 1e-12 * flops, tflops,
      100 * tflops / ceiling, ceiling);
  fmt::print("memory     {:.2f} GiB peak; bytes: {}\n", json["peak_gib"].get<double>(), memory);
  fmt::print("{}", profile_text(profile, ms));
  if (!bench.json_path.empty()) write_file_atomic(bench.json_path, json.dump(2) + "\n");
  return 0;
}

}  // namespace
}  // namespace glia

int bench_step(int argc, char** argv) {
  using namespace glia;
  return bench_main("bench step", [&] {
    const BenchCommand bench = split_command("bench step", argc, argv);
    const auto options =
        train_options(bench, "Times training steps. Beside the flags below: --steps N [50] and --json FILE.");
    return options ? run(bench, *options) : 0;
  });
}
