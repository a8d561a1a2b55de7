#include "experiments/training/estimate.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "engine/core/clock.h"
#include "engine/core/file.h"
#include "engine/core/json.h"
#include "experiments/report/statistics.h"
#include "moe/cost.h"

namespace glia {
namespace {

double measure_step(const RunSpec& spec, const Dataset& data, Device device) {
  Context context(device, spec.seed());
  Options options = spec.options;
  if (!spec.starts_from.empty()) options.init.clear();  // that run may not be there yet
  Trainer trainer(context, data, options, spec.model, spec.seed());
  const int64_t steps = std::min<int64_t>(device.is_cuda() ? 40 : 5, trainer.total());
  if (device.is_cuda()) {
    trainer.timed_steps(steps);  // plans, graphs, caches
    return statistics::median(trainer.timed_steps(steps));
  }
  // A CPU's may take long: then the first says enough.
  constexpr double kLong = 1000;  // ms
  std::vector<double> times = trainer.timed_steps(1);
  if (times[0] > kLong) return times[0];
  times.clear();
  double all = 0;
  while (std::ssize(times) < steps && all < kLong) times.push_back(trainer.timed_steps(1)[0]), all += times.back();
  return statistics::median(times);
}

// What decides how long a step takes; a grid's learning rates do not.
std::string key_of(const RunSpec& spec) {
  const Options& o = spec.options;
  return fmt::format("{} {} {} {} {} {} {} {} {} {}", spec.model.name, o.layers, o.hidden, o.ffn,
                     spec.model.moe.n_experts, spec.model.moe.top_k, o.batch, o.micro_batches, o.max_length,
                     o.task);
}

}  // namespace

std::string step_text(double ms) {
  return ms < 1000 ? fmt::format("{:.3g} ms", ms) : fmt::format("{:.3g} s", 1e-3 * ms);
}

StepTimes::StepTimes(const Dataset& data, Device device, std::string device_text)
    : data_(data), device_(device), device_text_(std::move(device_text)) {}

double StepTimes::flops_of(const RunSpec& spec) const {
  const ModelConfig model = model_config(spec.options, spec.model, data_);
  return token_cost(model, expected_experts(model.moe), mean_length(data_)).flops;
}

void StepTimes::add_finished(const RunSpec& spec) {
  const std::string timing = spec.folder + "/timing.json";
  if (!std::filesystem::exists(timing)) return;
  if (read_json_object(spec.folder + "/config.json").value("device", "") != device_text_) return;
  const double ms = read_json_object(timing).value("ms_per_step", 0.0);
  if (ms > 0) known_[key_of(spec)] = {ms, flops_of(spec), spec.model.moe.dense()};
}

bool StepTimes::measure(const RunSpec& spec, bool in_short) {
  const bool dense = spec.model.moe.dense();
  const bool one_is = std::ranges::any_of(known_, [&](const auto& known) { return known.second.dense == dense; });
  if (known_.contains(key_of(spec)) || (in_short && one_is)) return false;
  known_[key_of(spec)] = {measure_step(spec, data_, device_), flops_of(spec), dense};
  return true;
}

StepTimes::Step StepTimes::of(const RunSpec& spec) const {
  if (known_.empty()) return {};
  if (const auto own = known_.find(key_of(spec)); own != known_.end()) return {own->second.ms};
  const double flops = flops_of(spec);
  const bool dense = spec.model.moe.dense();
  const auto distance = [&](const auto& known) {
    return std::pair(known.second.dense != dense, std::abs(known.second.flops - flops));
  };
  return {std::ranges::min_element(known_, {}, distance)->second.ms, true};
}

double StepTimes::run_seconds(const RunSpec& spec) const {
  const Options& o = spec.options;
  const double steps = static_cast<double>(total_steps(o, data_));
  // An evaluated row costs a forward pass, a third of a trained one.
  const double every =
      o.eval_every > 0 ? static_cast<double>(o.eval_every) : static_cast<double>(data_.train.size() / o.batch);
  const double rows = static_cast<double>(o.select == "test" ? data_.test.size() : data_.validation.size()) *
                      std::ceil(steps / every);
  const double evaluated = (rows + static_cast<double>(data_.test.size())) / static_cast<double>(o.batch);
  return 1e-3 * of(spec).ms * (steps + evaluated / 3);
}

double mean_length(const Dataset& data) {
  return static_cast<double>(data.test.tokens()) / static_cast<double>(data.test.size());
}

void print_costs(const std::vector<RunSpec>& specs, const std::vector<RunSpec>& open, const Dataset& data,
                 StepTimes* times, double seconds, double parallel, std::FILE* out) {
  const auto begin = Clock::now();
  std::set<std::string> seen;
  double all = 0;
  int64_t near = 0;
  for (const RunSpec& spec : specs) {
    if (!seen.insert(spec.model.name).second) continue;
    const ModelConfig model = model_config(spec.options, spec.model, data);
    const TokenCost cost = token_cost(model, expected_experts(model.moe), mean_length(data));
    const std::string experts = experts_in_words(model.moe);
    std::string time;
    if (times) {
      std::vector<const RunSpec*> left;
      for (const RunSpec& run : open)
        if (run.model.name == spec.model.name) left.push_back(&run);
      double sum = 0;
      bool any_near = false;
      for (const RunSpec* run : left) {
        times->measure(*run, seconds_since(begin) > seconds);
        sum += times->run_seconds(*run);
        any_near = any_near || times->of(*run).near;
      }
      near += any_near, all += sum;
      time = left.empty() ? fmt::format(", {:>28}", "finished")
                          : fmt::format(", {:>9} a step, {:>7} for {} run{}",
                                        (times->of(*left[0]).near ? "~ " : "") + step_text(times->of(*left[0]).ms),
                                        clock_text(sum), left.size(), left.size() == 1 ? "" : "s");
    }
    fmt::print(out, "{}{:<26} {:>9.3f} M active parameters, {:>9.3f} MFLOP a token{}{}{}\n",
               seen.size() == 1 ? "cost       " : "           ", spec.model.name, 1e-6 * cost.parameters,
               1e-6 * cost.flops, time, experts.empty() ? "" : ", ", experts);
    std::fflush(out);
  }
  if (!times || open.empty()) return;
  fmt::print(out, "estimate   about {} for {} run{}, by a few steps of each configuration here\n",
             clock_text(all / parallel), open.size(), open.size() == 1 ? "" : "s");
  if (near > 0)
    fmt::print(
        out,
        "           ~ of {} configuration{}: {:.0f} s of measuring were over, and the time is that of the measured one with "
        "the nearest FLOPs\n",
        near, near == 1 ? "" : "s", seconds);
}

}  // namespace glia
