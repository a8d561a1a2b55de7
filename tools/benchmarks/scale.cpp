#include "tools/benchmarks/scale.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "engine/core/build_info.h"
#include "engine/core/file.h"
#include "experiments/report/statistics.h"
#include "experiments/training/feed/data_source.h"
#include "experiments/training/run.h"
#include "experiments/training/training.h"
#include "tools/benchmarks/command.h"
#include "tools/benchmarks/profile.h"
#include "tools/benchmarks/work.h"

namespace glia {
namespace {

// One size and what it may be; the others keep what the flags say.
struct Axis {
  const char* name;
  std::vector<int64_t> on_gpu, on_cpu;
  // A point of it, within what the other flags make of the model.
  void (*set)(Options& o, int64_t value, double tokens_a_row);
};

// Four times as wide within, and heads of 64, or of 32 where it is narrow: as BERTs are.
void set_hidden(Options& o, int64_t hidden, double) {
  o.hidden = hidden, o.ffn = 4 * hidden, o.heads = std::max<int64_t>(1, hidden / (hidden < 256 ? 32 : 64));
}

const std::vector<Axis>& axes() {
  static const std::vector<Axis> all = {
      {"experts", {8, 16, 32, 64, 128, 192, 256}, {2, 4, 8}, [](Options& o, int64_t n, double) { o.experts = n; }},
      {"hidden", {256, 512, 1024, 2048}, {64, 128}, set_hidden},
      {"layers", {4, 8, 12, 24}, {1, 2, 4}, [](Options& o, int64_t n, double) { o.layers = n; }},
      {"tokens",
       {2048, 8192, 16384, 32768, 65536},
       {512, 1024, 2048},
       [](Options& o, int64_t n, double tokens_a_row) {
         o.batch = std::max<int64_t>(1, std::llround(static_cast<double>(n) / tokens_a_row));
       }},
  };
  return all;
}

const Axis& find_axis(const std::string& name) {
  std::string known;
  for (const Axis& axis : axes()) {
    if (name == axis.name) return axis;
    known += (known.empty() ? "" : ", ") + std::string(axis.name);
  }
  fail_input("--axes: expected some of {}, separated by commas, got '{}'", known, name);
}

struct Point {
  std::string axis;
  int64_t value = 0;
  std::string failure;  // why there is no measurement
  double ms = 0, floor_ms = 0, tokens = 0, gib = 0, parameters = 0, tflop = 0;
};

struct Ceilings {
  double tflops = 0, copy_gb = 0;
};

Ceilings measure_ceilings(const Options& o) {
  Context context(Device::parse(o.device), 42);
  return {matmul_ceiling_tflops(context, o.precision == "bfloat16" ? DType::kBFloat16 : DType::kFloat32),
          copy_ceiling_gb(context)};
}

Point measure(const Options& o, const RunModel& run, const Dataset& data, const Ceilings& ceilings, int64_t steps) {
  Point p;
  Context context(Device::parse(o.device), 42);
  Trainer trainer(context, data, o, run, 42);
  steps = std::min(steps, trainer.total());
  context.allocator().reset_peak();  // a replayed graph asks for nothing: its capture does
  // Twice before: every shape's graph is captured when the clock runs, and a CPU's caches and plans are made.
  for (int turn = 0; turn < 2; ++turn) {
    trainer.timed_steps(steps);
    trainer.seek(0);
  }
  const int64_t before = trainer.tokens_done();
  p.ms = statistics::median(trainer.timed_steps(steps));
  p.tokens = static_cast<double>(trainer.tokens_done() - before) / static_cast<double>(steps);
  p.gib = static_cast<double>(context.allocator().stats().peak) / (1 << 30);
  p.parameters = static_cast<double>(trainer.model().parameters().count());

  const ModelConfig& model = trainer.model().config();
  const double rows = static_cast<double>(o.batch), length = p.tokens / rows;
  const double flops =
      step_flops(model, {p.tokens, p.tokens * length, rows, rows}, model.bert.classes, model.last_layer_cls_only);
  p.tflop = 1e-12 * flops;
  const auto moment = static_cast<double>(size_of(trainer.optimiser().moments()));
  p.floor_ms = 1e3 * p.tflop / ceilings.tflops +
               1e-6 * optimiser_bytes(trainer.model(), p.tokens, moment) / ceilings.copy_gb;
  return p;
}

std::string row_of(const Point& p) {
  const std::string name = fmt::format("{} {}", p.axis, p.value);
  if (!p.failure.empty()) return fmt::format("| {} | {} | | | | | | |\n", name, p.failure);
  return fmt::format("| {} | {:.3f} | {:.3f} | {:.0f} % | {:.2f} | {:.0f} | {:.2f} | {:.1f} |\n", name, p.ms,
                     p.floor_ms, 100 * p.floor_ms / p.ms, p.gib, p.tokens, 1e-6 * p.parameters, p.tokens / p.ms);
}

std::string heading(const std::string& device, const Options& o, const Ceilings& c) {
  return fmt::format(
      "{}, {}, {}; commit {}. Floor: the step's products at the {:.4g} TFLOP/s that a large matmul reaches here, plus what "
      "AdamW has to move at the {:.0f} GB/s of a large copy. One size changes; the others are {} experts, top-{}, hidden {}, "
      "FFN {}, {} layers, {} sequences a step.\n\n"
      "| size | ms a step | floor, ms | share | GiB | tokens | M parameters | thousand tokens/s |\n"
      "|---|---:|---:|---:|---:|---:|---:|---:|\n",
      o.config, o.precision, device, build_commit(), c.tflops, c.copy_gb, o.experts, o.top_k, o.hidden, o.ffn,
      o.layers, o.batch);
}

std::vector<std::string> words_of(const std::string& list) {
  std::vector<std::string> words;
  std::istringstream stream(list);
  for (std::string word; std::getline(stream, word, ',');) words.push_back(word);
  return words;
}

int run(const BenchCommand& bench, const Options& base, const std::vector<const Axis*>& chosen,
        const std::string& markdown) {
  const RunSpec spec = plan_runs(base, {base.config}).front();  // with what its study sets for it
  const Options& o = spec.options;
  const Dataset data = load_data(o);
  const double tokens_a_row = static_cast<double>(data.train.tokens()) / static_cast<double>(data.train.size());
  const bool gpu = Device::parse(o.device).is_cuda();
  const Ceilings ceilings = measure_ceilings(o);
  std::string text = heading(Context(Device::parse(o.device)).backend().description(), o, ceilings);
  fmt::print("{}", text);
  nlohmann::ordered_json json = {{"command", bench.command}, {"commit", build_commit()}};
  const Study study = find_study(o.study);
  for (const Axis* axis : chosen)
    for (const int64_t value : gpu ? axis->on_gpu : axis->on_cpu) {
      Options at = o;
      axis->set(at, value, tokens_a_row);
      Point p;
      // A size that does not fit is a row of the table, and the next one is tried.
      try {
        check_options(at);
        check_batch(at);
        p = measure(at, run_model(at, configuration_of(study, at.config)), data, ceilings, bench.steps);
      } catch (const std::exception& error) {
        p.failure = error.what();
      }
      p.axis = axis->name, p.value = value;
      const std::string row = row_of(p);
      fmt::print("{}", row);
      std::fflush(stdout);
      text += row;
      json["points"].push_back({{"axis", p.axis},
                                {"value", p.value},
                                {"failure", p.failure},
                                {"step_ms", p.ms},
                                {"floor_ms", p.floor_ms},
                                {"peak_gib", p.gib},
                                {"tokens", p.tokens},
                                {"parameters", p.parameters},
                                {"tflop", p.tflop}});
    }
  if (!markdown.empty()) write_file_atomic(markdown, text);
  if (!bench.json_path.empty()) write_file_atomic(bench.json_path, json.dump(2) + "\n");
  return 0;
}

}  // namespace
}  // namespace glia

int bench_scale(int argc, char** argv) {
  using namespace glia;
  return bench_main("bench scale", [&] {
    std::string names = "experts,hidden,layers,tokens", markdown;
    const BenchCommand bench = split_command("bench scale", argc, argv, [&](CLI::App& app) {
      app.add_option("--axes", names);
      app.add_option("--markdown", markdown);
    });
    const auto options = train_options(
        bench,
        "Times steps over E, H, L and tokens a step, one at a time. Beside the flags below: --axes experts,hidden,layers,tokens, "
        "--steps N [50], --markdown FILE and --json FILE.");
    if (!options) return 0;
    std::vector<const Axis*> chosen;
    for (const std::string& name : words_of(names)) chosen.push_back(&find_axis(name));
    if (chosen.empty()) fail_input("--axes: expected experts, hidden, layers, tokens or some of them, got ''");
    return run(bench, *options, chosen, markdown);
  });
}
