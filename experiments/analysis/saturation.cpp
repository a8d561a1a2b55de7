#include "experiments/analysis/saturation.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "experiments/analysis/analysis.h"
#include "experiments/analysis/run_trace.h"

namespace glia {
namespace {

constexpr std::string_view kPrefix = "trace_step", kSuffix = ".safetensors";

std::string path_of(const std::string& folder, int64_t step) {
  return fmt::format("{}/{}{}{}", folder, kPrefix, step, kSuffix);
}

std::vector<int64_t> kept_steps(const std::string& folder) {
  std::vector<int64_t> steps;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) continue;
    const char *begin = name.data() + kPrefix.size(), *end = name.data() + name.size() - kSuffix.size();
    int64_t step = 0;
    if (const auto read = std::from_chars(begin, end, step); read.ec == std::errc() && read.ptr == end)
      steps.push_back(step);
  }
  std::ranges::sort(steps);
  return steps;
}

}  // namespace

RoutingProbe::RoutingProbe(Model& model, const Dataset& data, const Options& options, const std::string& folder,
                           const std::string& title)
    : model_(model),
      topics_(data.class_names),
      folder_(folder),
      title_(title),
      evaluator_(model, data.test, without_padding(options), data.vocabulary(), options.trace_rows) {}

void RoutingProbe::keep(int64_t step) {
  results::write_trace(path_of(folder_, step),
                       trace_of(model_, evaluator_, fmt::format("{}, step {}", title_, step), topics_, false));
}

std::vector<Saturation> saturation_of(const std::string& folder) {
  const std::vector<int64_t> steps = kept_steps(folder);
  std::vector<Saturation> list;
  if (steps.size() < 2) return list;
  const results::TraceFile last(path_of(folder, steps.back()));
  for (const int64_t step : steps)
    list.push_back({step, agreement(results::TraceFile(path_of(folder, step)), last, 0)});
  return list;
}

results::Json to_json(const std::vector<Saturation>& steps) {
  results::Json json = results::Json::array();
  for (const Saturation& s : steps) json.push_back({{"step", s.step}, {"layers", results::to_json(s.layers)}});
  return json;
}

results::Table saturation_table(const std::vector<Saturation>& steps) {
  results::Table t;
  t.title = "Router saturation";
  t.note =
      "share of a token's experts that are those of the last step, its first one and, behind the stroke, all of them; "
      "(chance) is what even use would give in the rows below it. Numbers of experts mean the same within a run: nothing "
      "is matched.";
  t.header = {"step"};
  const auto pair = [](double first, double all) { return fmt::format("{:.3f} / {:.3f}", first, all); };
  for (const auto& layer : steps.front().layers) t.header.push_back(fmt::format("layer {}", layer.layer + 1));
  std::vector<std::string> last;
  for (const Saturation& s : steps) {
    std::vector<std::string> chance = {"(chance)"}, row = {std::to_string(s.step)};
    for (const auto& layer : s.layers) {
      chance.push_back(pair(layer.chance_same_first, layer.chance_same));
      row.push_back(pair(layer.same_first, layer.same));
    }
    if (chance != last) t.rows.push_back(chance);  // anew where tokens have another number of experts
    last = std::move(chance);
    t.rows.push_back(std::move(row));
  }
  return t;
}

}  // namespace glia
