#include "experiments/report/of_runs/analysis_values.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>

#include "engine/core/check.h"
#include "engine/core/json.h"

namespace glia::results {
namespace {

// n/a where the file is from before there was such a number.
double number(const Json& json, const char* key) {
  const auto it = json.find(key);
  return it == json.end() || it->is_null() ? std::nan("") : it->get<double>();
}

double number(const Json& json, const char* object, const char* key) {
  const auto it = json.find(object);
  return it == json.end() ? std::nan("") : number(*it, key);
}

void set(NamedValues& values, const std::string& metric, double value, double chance) {
  values.set(metric, value);
  if (std::isfinite(chance)) values.set(chance_of(metric), chance);
}

// Each layer's value and, as eval.json's rows have it, that of all.
using OfLayer = std::function<std::pair<double, double>(const Json& layer)>;  // the value, and by chance
void set_layers(NamedValues& values, const MetricRow& row, const Json& layers, const OfLayer& read) {
  std::vector<double> all, chances;
  for (const Json& layer : layers) {
    const auto [value, chance] = read(layer);
    all.push_back(value), chances.push_back(chance);
    set(values, fmt::format("{}.{}", row.name, all.size()), value, chance);
  }
  const double none = std::nan("");
  set(values, row.name, combined(row.layers, all).value_or(none), combined(row.layers, chances).value_or(none));
}

void require_layers(const Json& layers, int expected) {
  if (int(layers.size()) != expected) throw Error(fmt::format("{} layers of {}", layers.size(), expected));
}

void set_by_token(NamedValues& values, const Json& layers) {
  for (const MetricRow* row : metric_rows(Stage::routing))
    if (row->analysed && row->form == Form::scalar)
      set_layers(values, *row, layers, [row](const Json& layer) {
        return std::pair(number(layer, "metrics", row->name), number(layer, "chance", row->name));
      });
}

// Agreement by layer under these keys, as the values of a row of Stage::analysis.
void set_agreement(NamedValues& values, const char* name, const Json& layers, const char* key, const char* chance) {
  set_layers(values, *metric_row(Stage::analysis, name), layers,
             [&](const Json& layer) { return std::pair(number(layer, key), number(layer, chance)); });
}

// Of layers that follow each other: two that lie far apart agree less in a deeper model.
void set_pairs(NamedValues& values, const Json& pairs) {
  for (const auto& [name, key] :
       {std::pair{"layer_overlap", "matched_overlap"}, std::pair{"layer_information", "normalised_information"}}) {
    std::vector<double> all, chances;
    for (const Json& pair : pairs) {
      const auto layers = pair.at("layers").get<std::vector<int>>();
      if (layers.size() != 2 || layers[1] != layers[0] + 1) continue;
      all.push_back(number(pair, key));
      chances.push_back(number(pair, fmt::format("{}_permuted", key).c_str()));
    }
    const double none = std::nan("");
    if (!all.empty())
      set(values, name, combined(Over::mean, all).value_or(none), combined(Over::mean, chances).value_or(none));
  }
}

// Of the kept step that lies next to the middle of the training, of two the earlier.
void set_saturation(NamedValues& values, const Json& steps, int layers) {
  if (steps.empty()) return;
  const auto step_of = [](const Json& step) { return step.at("step").get<int64_t>(); };
  const int64_t last = step_of(steps.back());
  const Json& middle =
      *std::ranges::min_element(steps, {}, [&](const Json& step) { return std::abs(2 * step_of(step) - last); });
  require_layers(middle.at("layers"), layers);
  set_agreement(values, "saturation", middle.at("layers"), "saturation", "saturation_chance");
  set_agreement(values, "saturation_first", middle.at("layers"), "saturation_first", "saturation_first_chance");
}

// Whether a path that --against was given is that of the same configuration's run of another seed, or of its trace.
bool is_other_seed(const std::string& path, const RunConfig& config) {
  std::filesystem::path folder = std::filesystem::path(path).lexically_normal();
  if (!folder.has_filename() || folder.extension() == ".safetensors") folder = folder.parent_path();
  const std::string seed = folder.parent_path().filename().string();
  return folder.filename() == config.config && seed.starts_with("seed") &&
         seed != fmt::format("seed{}", config.seed_index);
}

NamedValues values_of(const Json& json, const RunConfig& config) {
  NamedValues values;
  const auto part = [&](const char* key, const auto& read) {
    if (const auto it = json.find(key); it != json.end()) read(*it);
  };
  values.set(kAnalysedTokens, number(json, "tokens"));
  part("layers", [&](const Json& layers) {
    require_layers(layers, config.layers());
    set_by_token(values, layers);
  });
  part("layer_pairs", [&](const Json& pairs) { set_pairs(values, pairs); });
  part("topic_probe",
       [&](const Json& probe) { set(values, "topic_probe", number(probe, "accuracy"), number(probe, "chance")); });
  part("saturation", [&](const Json& steps) { set_saturation(values, steps, config.layers()); });
  part("agreement", [&](const Json& other) {
    if (!is_other_seed(other.at("trace").get<std::string>(), config)) return;
    require_layers(other.at("layers"), config.layers());
    set_agreement(values, "seed_overlap", other.at("layers"), "matched_overlap", "matched_overlap_permuted");
  });
  return values;
}

}  // namespace

std::string chance_of(const std::string& metric) {
  const size_t dot = metric.find('.');
  return metric.substr(0, dot) + "_chance" + (dot == std::string::npos ? "" : metric.substr(dot));
}

NamedValues analysis_values(const Run& run) {
  const std::string path = run.folder + "/analysis.json";
  if (!run.config.moe() || !std::filesystem::exists(path)) return {};
  const Json json = read_json_object(path);
  try {
    return values_of(json, run.config);
  } catch (const std::exception& problem) {
    fail_input("{}: expected what tools/analyse writes, got {}", path, problem.what());
  }
}

}  // namespace glia::results
