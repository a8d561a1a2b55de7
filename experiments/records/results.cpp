#include "experiments/records/results.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <set>

#include "engine/core/check.h"
#include "engine/core/file.h"
#include "engine/core/json.h"
#include "moe/router.h"

namespace fs = std::filesystem;

namespace glia::results {
namespace {

// "seed12" → 12
std::optional<int> seed_index_of(const std::string& name) {
  int index = -1;
  if (!name.starts_with("seed")) return {};
  const char* first = name.data() + 4;
  const char* last = name.data() + name.size();
  const auto [end, error] = std::from_chars(first, last, index);
  if (first == last || end != last || error != std::errc() || index < 0) return {};
  return index;
}

std::vector<std::string> sorted_folders(const std::string& path) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(path))
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::string without_trailing_slash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

// Where a run may not differ from another; `tells`: of a field that only one of them has, whether that is a difference.
struct Comparison {
  const Run &a, &b;
  const char* of;  // "runs of one summary"
  std::function<bool(const std::string& key)> tells;

  void require_equal(const std::string& what, const Json& x, const Json& y) const {
    if (x.is_object() && y.is_object()) {
      for (const Json* side : {&x, &y})
        for (const auto& [key, value] : side->items()) {
          const bool both = x.contains(key) && y.contains(key);
          if (both ? side == &x : tells(key))
            require_equal(what.empty() ? key : what + "." + key, x.value(key, Json()), y.value(key, Json()));
        }
    } else if (x != y) {
      const auto said = [](const Json& value) { return value.is_null() ? "none" : value.dump(); };
      fail_input("{} and {}: {} must have the same {}, got {} and {}", a.folder, b.folder, of, what, said(x),
                 said(y));
    }
  }
};

// Without what differs by design: what either run's study sets for single configurations, or the axes of a grid.
Json comparable_part(const RunConfig& c, const std::vector<std::string>& by_design) {
  Json json;
  json["protocol"] = c.protocol;
  json["preset"] = c.preset;
  json["data"] = to_json(c)["data"];
  json["train"] = c.train;
  json["options"] = c.options;
  for (const char* key : {"layers", "hidden", "heads", "ffn", "classes", "vocabulary"})
    if (c.model.contains(key)) json["model"][key] = c.model[key];
  for (const std::string& key : by_design) {
    for (const char* part : {"train", "options", "model"})
      if (json.contains(part)) json[part].erase(key);
    if (key == "init") json["train"].erase("weights_hash");
    if (c.data.options.contains(key)) json.erase("data"), json["train"].erase("data_hash");
  }
  return json;
}

// What a configuration is made of, the same for all its seeds.
Json model_part(const RunConfig& c) {
  return {{"router", c.router}, {"balance", c.balance}, {"energy", c.energy}, {"model", c.model}};
}

// For a seed that is not there: which ones are.
std::string seeds_beside(const std::string& path) {
  const fs::path absolute = fs::absolute(path).lexically_normal();
  if (!seed_index_of(absolute.filename().string()) || !fs::is_directory(absolute.parent_path())) return "";
  std::vector<int> seeds;
  for (const std::string& name : sorted_folders(absolute.parent_path().string()))
    if (const auto seed = seed_index_of(name)) seeds.push_back(*seed);
  std::ranges::sort(seeds);
  std::string text;
  for (const int seed : seeds) text += fmt::format("{}seed{}", text.empty() ? "; there are " : ", ", seed);
  return text;
}

// A result folder keeps its study's text; one without is from before there was a choice.
Study study_of(const std::string& path) {
  fs::path root = fs::absolute(path).lexically_normal();
  if (is_run_folder(root.string())) root = root.parent_path();
  if (seed_index_of(root.filename().string())) root = root.parent_path();
  return read_study(root.string());
}

int64_t step_of_line(const std::string& line) {
  const Json json = Json::parse(line, nullptr, false);
  return json.is_object() && json.contains("step") && json["step"].is_number_integer() ? json["step"].get<int64_t>()
                                                                                       : INT64_MAX;
}

}  // namespace

bool left_out(const std::string& key) {
  static const std::set<std::string> keys = {"freeze",      "train",         "lr_of",         "weight_decay_of",
                                             "loss_scale",  "adam_state",    "micro_batches", "task",
                                             "only_topics", "csv_separator", "prompt"};
  return keys.contains(key);
}

// --- writing -------------------------------------------------------------------------------------

std::string run_folder(const std::string& out, int seed_index, const std::string& config) {
  return fmt::format("{}/seed{}/{}", out, seed_index, config);
}

void begin_run(const std::string& folder, const RunConfig& config, bool resume) {
  make_folder(folder);
  const std::string path = folder + "/config.json";
  if (resume && fs::exists(path)) {
    const Json old_json = read_json_object(path);
    const Json new_json = to_json(config);
    for (const auto& [key, value] : new_json.items())
      if (!is_incidental(key) && old_json.value(key, Json()) != value)
        fail_input("{}: cannot resume this run: its {} is {}, and {} is asked for", folder, key,
                   old_json.value(key, Json()).dump(), value.dump());
  }
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    const bool ended = name == "eval.json" || name == "failed.json";
    const bool ours = ended || name == "metrics.jsonl" || name == "timing.json" || name == "weights.txt" ||
                      name == "model.safetensors" || name.starts_with("utilization_") ||
                      name.starts_with("trace") || name == "predictions.csv" || name == "analysis.json" ||
                      name.starts_with("events.out.tfevents");
    if (ended || (ours && !resume)) fs::remove(entry.path());
  }
  write_file_atomic(path, to_json(config).dump(2) + "\n");
}

MetricsLog::MetricsLog(const std::string& folder, int64_t resume_step) : path_(folder + "/metrics.jsonl") {
  std::string kept;
  if (resume_step > 0 && fs::exists(path_)) {
    const std::string old = read_file(path_);
    for (size_t begin = 0; begin < old.size();) {
      const size_t end = old.find('\n', begin);
      if (end == std::string::npos) break;  // half-written
      const std::string text = old.substr(begin, end - begin);
      if (step_of_line(text) <= resume_step) kept += text + "\n";
      begin = end + 1;
    }
  }
  write_file_atomic(path_, kept);
  file_ = std::fopen(path_.c_str(), "ab");
  if (!file_) fail_input("{}: cannot open it for writing: {}", path_, std::strerror(errno));
}

MetricsLog::~MetricsLog() {
  if (file_) std::fclose(file_);
}

void MetricsLog::line(const Json& json) {
  const std::string text = json.dump() + "\n";
  if (std::fwrite(text.data(), 1, text.size(), file_) != text.size() || std::fflush(file_) != 0)
    fail_input("{}: cannot write to it: {}", path_, std::strerror(errno));
}

void MetricsLog::add(const TrainPoint& point) { line(to_json(point)); }
void MetricsLog::add(const EvalPoint& point) { line(to_json(point)); }

void write_evaluation(const std::string& folder, const Evaluation& evaluation,
                      const std::vector<LayerUtilisation>& utilisation,
                      const std::vector<std::string>& class_names) {
  CHECK(utilisation.size() == evaluation.layers.size(), "write_evaluation: {} utilisation matrices for {} layers",
        utilisation.size(), evaluation.layers.size());
  for (size_t l = 0; l < utilisation.size(); ++l) {
    write_utilisation(fmt::format("{}/utilization_layer{}.csv", folder, l + 1), utilisation[l].all, class_names);
    write_utilisation(fmt::format("{}/utilization_cls_layer{}.csv", folder, l + 1), utilisation[l].cls,
                      class_names);
  }
  write_file_atomic(folder + "/eval.json", to_json(evaluation).dump(2) + "\n");
}

void write_failure(const std::string& folder, const Failure& failure) {
  std::error_code ignored;
  fs::remove(folder + "/eval.json", ignored);
  const Json json = {{"reason", failure.reason}, {"step", failure.step}};
  write_file_atomic(folder + "/failed.json", json.dump(2) + "\n");
}

void write_timing(const std::string& folder, const Json& timing) {
  write_file_atomic(folder + "/timing.json", timing.dump(2) + "\n");
}

// --- reading -------------------------------------------------------------------------------------

bool is_incidental(const std::string& key) {
  return key == "commit" || key == "device" || key == "command" || key == "study" || key == "sets";
}

Study read_study(const std::string& out) {
  const std::string path = out + "/study.txt";
  if (!fs::exists(path)) return built_in_studies().front();
  const std::string text = read_file(path);
  const size_t end = text.find('\n');
  if (end == std::string::npos || !text.starts_with("# study ") || end <= 8)
    fail_input("{}:1: expected \"# study NAME\", got \"{}\"", path, text.substr(0, std::min<size_t>(end, 40)));
  Study study = parse_study(text.substr(end + 1), path);
  study.name = text.substr(8, end - 8);
  return study;
}

void write_study(const std::string& out, const Study& study) {
  write_file_atomic(out + "/study.txt", fmt::format("# study {}\n{}", study.name, study.text));
}

bool is_run_folder(const std::string& folder) { return fs::is_regular_file(folder + "/config.json"); }
bool is_done(const std::string& folder) { return fs::is_regular_file(folder + "/eval.json"); }

Run read_run(const std::string& folder) {
  Run run;
  run.folder = without_trailing_slash(folder);
  if (!fs::is_directory(run.folder)) fail_input("{}: no such folder", folder);
  const std::string path = run.folder + "/config.json";
  if (!is_run_folder(run.folder)) fail_input("{}: is no run: it has no config.json", run.folder);
  const Json config = read_json_object(path);
  if (!config.contains("config") && config.contains("model_type"))
    fail_input("{}: expected a run's folder (results/seed0/dense), found a model that is written for others",
               run.folder);
  run.config = run_config_from(config, path);
  const fs::path absolute = fs::absolute(run.folder).lexically_normal();
  if (absolute.filename().string() != run.config.config)
    fail_input("{}: expected the run of this folder, got the one of \"{}\"", path, run.config.config);
  if (const auto index = seed_index_of(absolute.parent_path().filename().string());
      index && *index != run.config.seed_index)
    fail_input("{}: expected seed_index {}, got {}", path, *index, run.config.seed_index);
  if (fs::exists(run.folder + "/timing.json")) run.timing = read_json_object(run.folder + "/timing.json");
  if (is_done(run.folder)) {
    const std::string eval = run.folder + "/eval.json";
    run.evaluation = evaluation_from(read_json_object(eval), eval);
    const size_t layers = run.config.moe() ? size_t(run.config.layers()) : 0;
    if (run.evaluation->layers.size() != layers)
      fail_input("{}: expected {} MoE layers as in config.json, got {}", eval, layers,
                 run.evaluation->layers.size());
    for (const LayerMetrics& m : run.evaluation->layers)
      if (int(m.loads().size()) != run.config.experts())
        fail_input("{}: expected {} loads as in config.json, got {}", eval, run.config.experts(), m.loads().size());
    run.state = RunState::done;
  } else if (const std::string failed = run.folder + "/failed.json"; fs::exists(failed)) {
    const Json json = read_json_object(failed);
    const Fields f{json, failed};
    run.failure = Failure{f.get<std::string>("reason"), f.get<int64_t>("step")};
    run.state = RunState::failed;
  }
  return run;
}

Metrics read_metrics(const std::string& folder, size_t max_train_points) {
  const std::string path = folder + "/metrics.jsonl";
  return metrics_from(read_file(path), path, max_train_points);
}

Metrics metrics_from(const std::string& text, const std::string& path, size_t max_train_points) {
  // Training lines by far outnumber the evaluations; the kind comes first in a line, so counting needs no parsing.
  constexpr std::string_view train_start = "{\"kind\":\"train\"";
  size_t train_lines = 0;
  for (size_t at = 0; at < text.size(); at = text.find('\n', at) + 1) {
    if (std::string_view(text).substr(at).starts_with(train_start)) ++train_lines;
    if (text.find('\n', at) == std::string::npos) break;
  }
  const size_t stride = max_train_points == 0 ? 1 : std::max<size_t>(1, train_lines / max_train_points);
  Metrics metrics;
  size_t number = 0, train_seen = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.starts_with(train_start) && train_seen++ % stride != 0) continue;
    const std::string from = fmt::format("{}:{}", path, number);
    const Json json = Json::parse(line, nullptr, false);
    if (!json.is_object()) fail_input("{}: expected a JSON object, got \"{}\"", from, line.substr(0, 40));
    const Fields f{json, from};
    const std::string kind = f.get<std::string>("kind");
    if (kind == "train") {
      metrics.train.push_back(train_point_from(json, from));
    } else if (kind == "eval") {
      metrics.evals.push_back(eval_point_from(json, from));
    } else {
      fail_input("{}: expected \"kind\" train or eval, got \"{}\"", from, kind);
    }
  }
  return metrics;
}

Listing list_runs(const std::string& path_given) {
  const std::string path = without_trailing_slash(path_given);
  if (!fs::is_directory(path)) fail_input("{}: no such folder{}", path, seeds_beside(path));
  Listing listing;
  listing.out = path;
  listing.study = study_of(path);
  std::vector<std::string> folders;
  const auto add_seed_folder = [&](const std::string& seed_folder) {
    for (const std::string& name : sorted_folders(seed_folder))
      if (name != "plots") folders.push_back(seed_folder + "/" + name);  // of a report on this seed alone
  };
  if (is_run_folder(path)) {
    folders = {path};
  } else if (seed_index_of(fs::absolute(path).lexically_normal().filename().string())) {
    add_seed_folder(path);
  } else {
    bool any = false;
    for (const std::string& name : sorted_folders(path))
      if (seed_index_of(name)) add_seed_folder(path + "/" + name), any = true;
    if (!any) fail_input("{}: is no result folder: it has neither seed0, seed1, … nor a config.json", path);
  }
  for (const std::string& folder : folders) {
    try {
      listing.runs.push_back(read_run(folder));
    } catch (const Error& error) {
      listing.problems.push_back({folder, error.what()});
    }
  }
  std::stable_sort(listing.runs.begin(), listing.runs.end(), [&](const Run& a, const Run& b) {
    if (a.config.seed_index != b.config.seed_index) return a.config.seed_index < b.config.seed_index;
    return configuration_less(listing.study, a.config.config, b.config.config);
  });
  return listing;
}

void require_one_recipe(const std::vector<Run>& runs, std::vector<std::string> but_for) {
  for (const Run& run : runs) but_for.insert(but_for.end(), run.config.sets.begin(), run.config.sets.end());
  const Json first = comparable_part(runs[0].config, but_for);
  for (const Run& run : runs)
    Comparison{runs[0], run, "runs of one summary", left_out}.require_equal("", first,
                                                                            comparable_part(run.config, but_for));
}

void require_comparable(const std::vector<Run>& runs) {
  require_one_recipe(runs, {});
  std::map<std::string, const Run*> first_seed;  // of each configuration
  for (const Run& run : runs) {
    const Run& same = *first_seed.emplace(run.config.config, &run).first->second;
    // A router's own options are always told, so that one that is missing came later.
    const auto tells = [&](const std::string& key) {
      for (const RouterRow& row : router_registry())
        if (row.name == run.config.router)
          for (const OptionRow& option : row.options)
            if (option_key(option.name) == key) return false;
      return true;
    };
    Comparison{same, run, "seeds of one configuration", tells}.require_equal("", model_part(same.config),
                                                                             model_part(run.config));
  }
}

}  // namespace glia::results
