#include "tools/benchmarks/step.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <numeric>

#include "engine/core/build_info.h"
#include "engine/core/file.h"
#include "engine/core/message.h"
#include "experiments/records/results.h"
#include "experiments/training/feed/data_source.h"
#include "experiments/training/presets.h"
#include "experiments/training/progress.h"
#include "experiments/training/run.h"
#include "experiments/training/training.h"
#include "tools/benchmarks/profile.h"

namespace glia {
namespace {

using Json = nlohmann::ordered_json;

// Floating-point operations of one training step's matrix products (a multiply and an add are 2; backward is twice
// forward). Only what has to be computed: packed rows, top-K experts, and in the last layer CLS rows behind the
// attention.
double step_flops(const ModelConfig& m, const TokenSplit& split, const BatchPlan& plan, int64_t batch, bool padded,
                  int64_t length) {
  const double H = m.bert.hidden, F = m.bert.ffn, E = m.moe.n_experts, K = m.moe.top_k, B = plan.sequences(batch);
  double T = 0, pairs = 0;
  for (const int32_t row : plan.rows(batch)) {
    const double n = static_cast<double>(padded ? length : split.length(row));
    T += n;
    pairs += n * n;
  }
  const bool moe = !m.moe.dense();
  double flops = 0;
  for (int64_t layer = 0; layer < m.bert.layers; ++layer) {
    const bool cls = layer + 1 == m.bert.layers && m.last_layer_cls_only;
    const double rows = cls ? B : T;
    flops += 2 * T * H * 3 * H + 4 * pairs * H;  // q, k, v; scores and values
    flops += 2 * (cls && !moe ? B : T) * H * H;  // a router reads every row, a dense FFN only its own
    flops += (moe ? K : 1) * 4 * rows * H * F;
    if (moe) flops += 2 * T * H * E + (m.moe.router == "softmax" ? 0 : 2 * B * H * E);
  }
  flops += 2 * B * H * (H + static_cast<double>(m.bert.classes));
  return 3 * flops;
}

struct Bench {
  Options options;
  int64_t steps = 50;
  std::string json_path, command;
};

int run(const Bench& bench) {
  const RunSpec spec = plan_runs(bench.options, {bench.options.config}).front();  // with what its study sets for it
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
  // On a GPU the same batches go through twice before: so every shape's graph is captured when the clock runs.
  trainer.timed_steps(gpu ? steps : std::min<int64_t>(3, steps));
  trainer.seek(0);
  if (gpu) {
    trainer.timed_steps(steps);
    trainer.seek(0);
  }
  context.allocator().reset_peak();
  const int64_t tokens_before = trainer.tokens_done();
  const std::vector<double> times = trainer.timed_steps(steps);
  const double total_ms = std::accumulate(times.begin(), times.end(), 0.0);
  const double tokens = static_cast<double>(trainer.tokens_done() - tokens_before);
  const auto peak = context.allocator().stats();

  double flops = 0;
  const std::vector<BatchPlan> plans = training_plans(o, data, 42);
  for (int64_t i = 0; i < steps; ++i)
    flops +=
        step_flops(trainer.model().config(), data.train, plans[static_cast<size_t>(i / trainer.steps_per_epoch())],
                   i % trainer.steps_per_epoch(), o.padding == "padded", o.max_length) /
        static_cast<double>(steps);

  const StepProfile profile =
      profile_steps(context, trainer, std::min<int64_t>(steps, gpu ? 10 : 3), !run.moe.dense());
  const double ms = median(times), tflops = 1e-9 * flops / ms;
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
  fmt::print("memory     {:.2f} GiB peak\n", json["peak_gib"].get<double>());
  fmt::print("{}", profile_text(profile, ms));
  if (!bench.json_path.empty()) write_file_atomic(bench.json_path, json.dump(2) + "\n");
  return 0;
}

}  // namespace
}  // namespace glia

int bench_step(int argc, char** argv) {
  using namespace glia;
  try {
    Bench bench;
    bench.command = command_text(argc, argv);
    CLI::App app;
    app.set_help_flag();
    app.allow_extras();
    app.add_option("--steps", bench.steps);
    app.add_option("--json", bench.json_path);
    app.parse(argc, argv);
    if (bench.steps < 1) fail_input("--steps: expected at least 1, got {}", bench.steps);
    std::vector<std::string> rest = app.remaining();
    rest.insert(rest.begin(), "bench step");
    std::vector<const char*> words;
    for (const std::string& word : rest) words.push_back(word.c_str());
    const CommandLine line =
        parse_command_line(static_cast<int>(words.size()), words.data(), Flag::kTrainOnly,
                           "Times training steps. Beside the flags below: --steps N [50] and --json FILE.");
    if (line.done) return 0;
    bench.options = resolve(line);
    bench.options.log_every = 1 << 10;  // nobody reads the losses
    return run(bench);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench step: {}\n", message_of(error));
    return 2;
  }
}
