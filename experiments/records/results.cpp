#include "experiments/records/results.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "engine/core/check.h"
#include "engine/core/file.h"
#include "experiments/studies/published.h"

namespace fs = std::filesystem;

namespace glia::results {
namespace {

Json parse(const std::string& path) {
  Json json = Json::parse(read_file(path), nullptr, false);
  if (json.is_discarded()) fail_input("{}: expected JSON, got a half-written or foreign file", path);
  if (!json.is_object()) fail_input("{}: expected a JSON object, got {}", path, json.type_name());
  return json;
}

// Typed access with the file in every message. JSON has no NaN: a diverged loss is written as null.
struct Fields {
  const Json& json;
  const std::string& from;

  const Json& at(const char* key) const {
    if (const auto it = json.find(key); it != json.end()) return *it;
    fail_input("{}: expected the field \"{}\", which is not there", from, key);
  }
  template <class T> T get(const char* key) const { return convert<T>(at(key), key); }
  template <class T> T get(const char* key, T otherwise) const {
    const auto it = json.find(key);
    return it == json.end() ? otherwise : convert<T>(*it, key);
  }
  Json object(const char* key) const {
    const Json& value = at(key);
    if (!value.is_object()) fail_input("{}: expected an object as \"{}\", got {}", from, key, value.type_name());
    return value;
  }
  template <class T> std::vector<T> list(const char* key) const {
    const Json& value = at(key);
    if (!value.is_array()) fail_input("{}: expected a list as \"{}\", got {}", from, key, value.type_name());
    std::vector<T> items;
    for (const Json& item : value) items.push_back(convert<T>(item, key));
    return items;
  }

 private:
  template <class T> T convert(const Json& value, const char* key) const {
    if constexpr (std::is_same_v<T, std::string>) {
      if (value.is_string()) return value.get<T>();
    } else if constexpr (std::is_same_v<T, bool>) {
      if (value.is_boolean()) return value.get<T>();
    } else if constexpr (std::is_integral_v<T>) {
      if (value.is_number_integer()) return value.get<T>();
    } else {
      if (value.is_number()) return value.get<T>();
      if (value.is_null()) return std::nan("");
    }
    constexpr const char* wanted = std::is_same_v<T, std::string> ? "text"
                                   : std::is_same_v<T, bool>      ? "true or false"
                                   : std::is_integral_v<T>        ? "an integer"
                                                                  : "a number";
    fail_input("{}: expected {} as \"{}\", got {}", from, wanted, key, value.dump());
  }
};

LayerMetrics layer_from(const Json& json, const std::string& from) {
  const Fields f{json, from};
  LayerMetrics m;
  m.specialisation = f.get<double>("specialisation");
  m.specialisation_cls = f.get<double>("specialisation_cls");
  m.mutual_information_bits = f.get<double>("mutual_information_bits", 0.0);
  m.mutual_information_bits_cls = f.get<double>("mutual_information_bits_cls", 0.0);
  m.entropy_bits = f.get<double>("entropy_bits");
  m.load_cv = f.get<double>("load_cv");
  m.loads = f.list<double>("loads");
  m.dead_experts = f.get<int>("dead_experts", m.loads.empty() ? 0 : dead_experts(m.loads));
  m.largest_share =
      f.get<double>("largest_share", m.loads.empty() ? 0.0 : *std::max_element(m.loads.begin(), m.loads.end()));
  return m;
}

std::vector<LayerMetrics> layers_from(const Json& json, const std::string& from) {
  std::vector<LayerMetrics> layers;
  if (!json.is_array()) fail_input("{}: expected a list as \"layers\", got {}", from, json.type_name());
  for (const Json& layer : json) layers.push_back(layer_from(layer, from));
  return layers;
}

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

// Where a run may not differ from another of the same summary; fields that only one of them has are skipped.
void require_equal(const Run& a, const Run& b, const std::string& what, const Json& x, const Json& y) {
  if (x.is_object() && y.is_object()) {
    for (const auto& [key, value] : x.items())
      if (y.contains(key)) require_equal(a, b, what.empty() ? key : what + "." + key, value, y[key]);
  } else if (x != y) {
    fail_input("{} and {}: runs of one summary must have the same {}, got {} and {}", a.folder, b.folder, what,
               x.dump(), y.dump());
  }
}

Json comparable_part(const RunConfig& c) {
  Json json;
  json["protocol"] = c.protocol;
  json["preset"] = c.preset;
  json["data"] = to_json(c)["data"];
  json["train"] = c.train;
  json["options"] = c.options;
  for (const char* key : {"layers", "hidden", "heads", "ffn", "classes", "vocabulary"})
    if (c.model.contains(key)) json["model"][key] = c.model[key];
  return json;
}

int64_t step_of_line(const std::string& line) {
  const Json json = Json::parse(line, nullptr, false);
  return json.is_object() && json.contains("step") && json["step"].is_number_integer() ? json["step"].get<int64_t>()
                                                                                       : INT64_MAX;
}

}  // namespace

// --- JSON ----------------------------------------------------------------------------------------

Json to_json(const RunConfig& c) {
  Json json = {{"config", c.config}, {"seed_index", c.seed_index}, {"seed", c.seed},     {"protocol", c.protocol},
               {"preset", c.preset}, {"precision", c.precision},   {"router", c.router}, {"balance", c.balance},
               {"energy", c.energy}, {"model", c.model},           {"train", c.train},   {"options", c.options}};
  Json& data = json["data"];
  data = {{"name", c.data.name},
          {"synthetic", c.data.synthetic},
          {"train_rows", c.data.train_rows},
          {"validation_rows", c.data.validation_rows},
          {"test_rows", c.data.test_rows},
          {"class_names", c.data.class_names}};
  if (c.data.bayes_accuracy) data["bayes_accuracy"] = *c.data.bayes_accuracy;
  if (!c.data.options.empty()) data["options"] = c.data.options;
  json["commit"] = c.commit;
  json["device"] = c.device;
  json["command"] = c.command;
  return json;
}

RunConfig run_config_from(const Json& json, const std::string& from) {
  const Fields f{json, from};
  RunConfig c;
  c.config = f.get<std::string>("config");
  c.seed_index = f.get<int>("seed_index");
  c.seed = f.get<uint64_t>("seed");
  c.protocol = f.get<std::string>("protocol");
  c.preset = f.get<std::string>("preset");
  c.precision = f.get<std::string>("precision");
  c.router = f.get<std::string>("router");
  c.balance = f.get<double>("balance");
  c.energy = f.get<double>("energy");
  c.model = f.object("model");
  c.train = f.object("train");
  c.options = f.object("options");
  c.commit = f.get<std::string>("commit");
  c.device = f.get<std::string>("device");
  c.command = f.get<std::string>("command", "");
  const Json data_json = f.object("data");
  const Fields data{data_json, from};
  c.data.name = data.get<std::string>("name");
  c.data.synthetic = data.get<bool>("synthetic");
  c.data.train_rows = data.get<int64_t>("train_rows");
  c.data.validation_rows = data.get<int64_t>("validation_rows");
  c.data.test_rows = data.get<int64_t>("test_rows");
  c.data.class_names = data.list<std::string>("class_names");
  if (data_json.contains("bayes_accuracy")) c.data.bayes_accuracy = data.get<double>("bayes_accuracy");
  if (data_json.contains("options")) c.data.options = data.object("options");
  const Fields model{c.model, from};
  if (model.get<int>("layers") < 1) fail_input("{}: expected model.layers >= 1", from);
  if (model.get<int>("experts") < 0) fail_input("{}: expected model.experts >= 0", from);
  return c;
}

Json to_json(const LayerMetrics& m, int number) {
  return {{"layer", number},
          {"specialisation", m.specialisation},
          {"specialisation_cls", m.specialisation_cls},
          {"mutual_information_bits", m.mutual_information_bits},
          {"mutual_information_bits_cls", m.mutual_information_bits_cls},
          {"entropy_bits", m.entropy_bits},
          {"load_cv", m.load_cv},
          {"dead_experts", m.dead_experts},
          {"largest_share", m.largest_share},
          {"loads", m.loads}};
}

Json to_json(const Evaluation& e) {
  Json json = {{"step", e.step},         {"split", e.split}, {"rows", e.rows},
               {"accuracy", e.accuracy}, {"loss", e.loss},   {"class_accuracy", e.class_accuracy}};
  if (e.validation_accuracy) json["validation_accuracy"] = *e.validation_accuracy;
  json["layers"] = Json::array();
  for (size_t l = 0; l < e.layers.size(); ++l) json["layers"].push_back(to_json(e.layers[l], int(l) + 1));
  return json;
}

Evaluation evaluation_from(const Json& json, const std::string& from) {
  const Fields f{json, from};
  Evaluation e;
  e.step = f.get<int64_t>("step");
  e.split = f.get<std::string>("split");
  e.rows = f.get<int64_t>("rows");
  e.accuracy = f.get<double>("accuracy");
  e.loss = f.get<double>("loss");
  e.class_accuracy = f.list<double>("class_accuracy");
  if (json.contains("validation_accuracy")) e.validation_accuracy = f.get<double>("validation_accuracy");
  e.layers = layers_from(f.at("layers"), from);
  if (!(e.accuracy >= 0 && e.accuracy <= 1)) fail_input("{}: expected accuracy in 0…1, got {}", from, e.accuracy);
  return e;
}

// --- writing -------------------------------------------------------------------------------------

std::string run_folder(const std::string& out, int seed_index, const std::string& config) {
  return fmt::format("{}/seed{}/{}", out, seed_index, config);
}

void begin_run(const std::string& folder, const RunConfig& config, bool resume) {
  make_folder(folder);
  const std::string path = folder + "/config.json";
  if (resume && fs::exists(path)) {
    const Json old_json = parse(path);
    const Json new_json = to_json(config);
    for (const auto& [key, value] : new_json.items())
      if (key != "commit" && key != "device" && key != "command" && old_json.value(key, Json()) != value)
        fail_input("{}: cannot resume this run: its {} is {}, and {} is asked for", folder, key,
                   old_json.value(key, Json()).dump(), value.dump());
  }
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    const bool ended = name == "eval.json" || name == "failed.json";
    const bool ours = ended || name == "metrics.jsonl" || name == "timing.json" || name == "weights.txt" || name == "model.safetensors" ||
                      name.starts_with("utilization_") || name.starts_with("events.out.tfevents");
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

void MetricsLog::add(const TrainPoint& p) {
  line({{"kind", "train"},
        {"step", p.step},
        {"epoch", p.epoch},
        {"loss", p.loss},
        {"ce", p.ce},
        {"balance", p.balance},
        {"energy", p.energy},
        {"lr", p.lr},
        {"grad_norm", p.grad_norm}});
}

void MetricsLog::add(const EvalPoint& p) {
  Json json = {{"kind", "eval"}, {"split", p.split}, {"step", p.step}, {"accuracy", p.accuracy}, {"loss", p.loss}};
  json["layers"] = Json::array();
  for (const LayerMetrics& m : p.layers)
    json["layers"].push_back({{"specialisation", m.specialisation},
                              {"specialisation_cls", m.specialisation_cls},
                              {"load_cv", m.load_cv},
                              {"entropy_bits", m.entropy_bits},
                              {"loads", m.loads}});
  line(json);
}

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

bool is_run_folder(const std::string& folder) { return fs::is_regular_file(folder + "/config.json"); }
bool is_done(const std::string& folder) { return fs::is_regular_file(folder + "/eval.json"); }

Run read_run(const std::string& folder) {
  Run run;
  run.folder = without_trailing_slash(folder);
  if (!fs::is_directory(run.folder)) fail_input("{}: no such folder", folder);
  const std::string path = run.folder + "/config.json";
  if (!is_run_folder(run.folder)) fail_input("{}: is no run: it has no config.json", run.folder);
  run.config = run_config_from(parse(path), path);
  const fs::path absolute = fs::absolute(run.folder).lexically_normal();
  if (absolute.filename().string() != run.config.config)
    fail_input("{}: expected the run of this folder, got the one of \"{}\"", path, run.config.config);
  if (const auto index = seed_index_of(absolute.parent_path().filename().string());
      index && *index != run.config.seed_index)
    fail_input("{}: expected seed_index {}, got {}", path, *index, run.config.seed_index);
  if (fs::exists(run.folder + "/timing.json")) run.timing = parse(run.folder + "/timing.json");
  if (is_done(run.folder)) {
    const std::string eval = run.folder + "/eval.json";
    run.evaluation = evaluation_from(parse(eval), eval);
    const size_t layers = run.config.moe() ? size_t(run.config.layers()) : 0;
    if (run.evaluation->layers.size() != layers)
      fail_input("{}: expected {} MoE layers as in config.json, got {}", eval, layers,
                 run.evaluation->layers.size());
    for (const LayerMetrics& m : run.evaluation->layers)
      if (int(m.loads.size()) != run.config.experts())
        fail_input("{}: expected {} loads as in config.json, got {}", eval, run.config.experts(), m.loads.size());
    run.state = RunState::done;
  } else if (const std::string failed = run.folder + "/failed.json"; fs::exists(failed)) {
    const Json json = parse(failed);
    const Fields f{json, failed};
    run.failure = Failure{f.get<std::string>("reason"), f.get<int64_t>("step")};
    run.state = RunState::failed;
  }
  return run;
}

Metrics read_metrics(const std::string& folder, size_t max_train_points) {
  const std::string path = folder + "/metrics.jsonl";
  const std::string text = read_file(path);
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
      metrics.train.push_back({f.get<int64_t>("step"), f.get<double>("epoch"), f.get<double>("loss"),
                               f.get<double>("ce"), f.get<double>("balance"), f.get<double>("energy"),
                               f.get<double>("lr"), f.get<double>("grad_norm")});
    } else if (kind == "eval") {
      metrics.evals.push_back({f.get<std::string>("split"), f.get<int64_t>("step"), f.get<double>("accuracy"),
                               f.get<double>("loss"), layers_from(f.at("layers"), from)});
    } else {
      fail_input("{}: expected \"kind\" train or eval, got \"{}\"", from, kind);
    }
  }
  return metrics;
}

Listing list_runs(const std::string& path_given) {
  const std::string path = without_trailing_slash(path_given);
  if (!fs::is_directory(path)) fail_input("{}: no such folder", path);
  Listing listing;
  listing.out = path;
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
  std::stable_sort(listing.runs.begin(), listing.runs.end(), [](const Run& a, const Run& b) {
    if (a.config.seed_index != b.config.seed_index) return a.config.seed_index < b.config.seed_index;
    return configuration_less(a.config.config, b.config.config);
  });
  return listing;
}

void require_comparable(const std::vector<Run>& runs) {
  for (const Run& run : runs)
    require_equal(runs[0], run, "", comparable_part(runs[0].config), comparable_part(run.config));
}

bool configuration_less(const std::string& a, const std::string& b) {
  const auto rank = [](const std::string& name) {
    const auto& table = published_numbers();
    return std::find_if(table.begin(), table.end(), [&](const Published& p) { return p.config == name; }) -
           table.begin();
  };
  const auto ra = rank(a), rb = rank(b);
  return ra != rb ? ra < rb : a < b;
}

}  // namespace glia::results
