#include "tools/benchmarks/profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "engine/device/profiler.h"
#include "engine/ops/products/matmul.h"
#include "experiments/report/statistics.h"

namespace glia {
namespace {

// Which group an op of the profiler belongs to: the first row whose text begins its name.
struct OpGroup {
  const char* begins;
  const char* group;
};
constexpr OpGroup kGroups[] = {
    {"dropout_residual", "norms"},
    {"route", "router"},
    {"z_loss", "router"},
    {"attention", "attention"},
    {"grouped", "expert GEMMs"},
    {"expert", "expert GEMMs"},
    {"dispatch", "expert GEMMs"},
    {"combine", "expert GEMMs"},
    {"make_dispatch", "router"},
    {"vocabulary", "dense GEMMs"},
    {"linear", "dense GEMMs"},
    {"matmul", "dense GEMMs"},
    {"feed_forward", "dense GEMMs"},
    {"column_sum", "dense GEMMs"},
    {"bias", "dense GEMMs"},
    {"router", "router"},
    {"top_k", "router"},
    {"load_losses", "router"},
    {"importance_of_layers", "router"},
    {"gather_index", "router"},
    {"sequence_", "router"},
    {"layer_norm", "norms"},
    {"residual", "norms"},
    {"add_layer_norm", "norms"},
    {"dropout_add", "norms"},
    {"adamw", "optimiser"},
};
constexpr std::array kGroupNames{"attention", "expert GEMMs", "dense GEMMs", "router",
                                 "norms",     "optimiser",    "other"};

// The fused FFN kernels serve experts where there are some.
std::string group_of(const std::string& op, bool moe) {
  if (moe && op.starts_with("feed_forward")) return "expert GEMMs";
  for (const OpGroup& g : kGroups)
    if (op.starts_with(g.begins)) return g.group;
  return "other";
}

// The time between two marks with nothing in between.
double empty_mark_ms(Context& context) {
  std::vector<std::shared_ptr<void>> marks;
  delay(context.backend(), 5);
  for (int i = 0; i < 101; ++i) marks.push_back(mark_time(context.backend()));
  context.synchronize();
  std::vector<double> times;
  for (size_t i = 1; i < marks.size(); ++i)
    times.push_back(milliseconds_between(context.backend(), marks[i - 1].get(), marks[i].get()));
  return statistics::median(times);
}

}  // namespace

double matmul_ceiling_tflops(Context& context, DType dtype) {
  const int64_t n = context.device().is_cuda() ? 8192 : 1024;
  const Tensor a = cast(random_normal(context, {n, n}, 1, 1, purpose::kTest), dtype);
  const Tensor b = cast(random_normal(context, {n, n}, 1, 2, purpose::kTest), dtype);
  const Tensor c = empty(context, {n, n}, dtype);
  double best = 0;
  for (int i = 0; i < 12; ++i) {
    const auto begin = mark_time(context.backend());
    matmul_into(a, b, c, false, true);
    const auto end = mark_time(context.backend());
    context.synchronize();
    const double ms = milliseconds_between(context.backend(), begin.get(), end.get());
    if (i >= 2)
      best = std::max(best, 2e-9 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n) / ms);
  }
  return best;
}

StepProfile profile_steps(Context& context, Trainer& trainer, int64_t steps, bool experts) {
  trainer.use_graphs(false);
  trainer.seek(0);
  trainer.timed_steps(1);
  context.profiler.enabled = true;
  context.profiler.report(context.backend());
  const double mark_ms = empty_mark_ms(context);
  for (int64_t i = 0; i < steps; ++i) {
    delay(context.backend(), 20);
    trainer.timed_steps(1);
  }
  context.profiler.enabled = false;
  StepProfile profile;
  profile.steps = steps;
  std::map<std::string, double> groups;
  for (const auto& [op, entry] : context.profiler.report(context.backend())) {
    const double ms =
        std::max(0.0, entry.milliseconds - static_cast<double>(entry.calls) * mark_ms) / static_cast<double>(steps);
    groups[group_of(op, experts)] += ms;
    profile.ops.emplace_back(ms, fmt::format("{} ({} calls)", op, entry.calls / steps));
    profile.sum_ms += ms;
  }
  std::sort(profile.ops.rbegin(), profile.ops.rend());
  for (const char* name : kGroupNames) profile.groups.emplace_back(name, groups[name]);
  return profile;
}

std::string profile_text(const StepProfile& profile, double step_ms) {
  std::string text =
      fmt::format("by group   ({} eager steps, the device kept busy while they are enqueued)\n", profile.steps);
  for (const auto& [name, ms] : profile.groups)
    text += fmt::format("  {:<14} {:>9.3f} ms  {:>5.1f} %\n", name, ms, 100 * ms / step_ms);
  const double gaps = step_ms - profile.sum_ms;
  text += fmt::format("  {:<14} {:>9.3f} ms  {:>5.1f} %   the step less the sum above\n", "gaps", gaps,
                      100 * gaps / step_ms);
  text += "by op\n";
  for (const auto& [ms, op] : profile.ops) text += fmt::format("  {:<44} {:>9.3f} ms\n", op, ms);
  return text;
}

}  // namespace glia
