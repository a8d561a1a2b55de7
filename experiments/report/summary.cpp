#include "experiments/report/summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>
#include <stdexcept>

#include "engine/core/check.h"
#include "engine/core/file.h"
#include "engine/core/json.h"
#include "experiments/report/of_runs/analysis_values.h"
#include "experiments/report/warnings.h"

namespace glia::results {
namespace {

void add_value(ConfigSummary& c, const std::string& name, int seed, double value) {
  if (std::isnan(value)) return;  // n/a
  Metric& metric = c.metrics[name];
  metric.seeds.push_back(seed);
  metric.values.push_back(value);
}

void add_run(ConfigSummary& c, const Run& run) {
  const Evaluation& e = *run.evaluation;
  const int seed = run.config.seed_index;
  for (const auto& [name, value] : e.values) add_value(c, name, seed, value);
  if (e.validation_accuracy) add_value(c, "validation_accuracy", seed, *e.validation_accuracy);
  for (const MetricRow* row : metric_rows(Stage::routing)) {
    if (row->form != Form::scalar) continue;
    std::vector<double> layers;
    for (size_t l = 0; l < e.layers.size(); ++l) {
      layers.push_back(e.layers[l].scalar(row->name));
      add_value(c, layer_metric(row->name, int(l) + 1), seed, layers.back());
    }
    if (const auto all = combined(row->layers, layers)) add_value(c, row->name, seed, *all);
  }
  for (size_t l = 0; l < e.layers.size(); ++l) {
    const double mass = e.layers[l].scalar("specialisation_mass");
    add_value(c, layer_metric(kSpecialisation, int(l) + 1), seed,
              std::isnan(mass) ? e.layers[l].scalar("specialisation") : mass);
  }
}

const MetricRow* row_of(const std::string& metric) {  // of "specialisation.4" too
  const std::string prefix = metric.substr(0, metric.find('.')),
                    name = prefix == kSpecialisation ? "specialisation" : prefix;
  for (const Stage stage : {Stage::routing, Stage::evaluation, Stage::analysis})
    if (const MetricRow* row = metric_row(stage, name)) return row;
  return nullptr;
}

// Too few seeds make no interval, and none leaves the range of what it is about.
statistics::Estimate estimated(const std::string& name, const std::vector<double>& values) {
  statistics::Estimate e = statistics::estimate(values);
  // Pairs of seeds have seeds in common: their spread is no spread of independent values.
  if (e.n < kLeastSeeds || name.starts_with("seed_overlap")) e.ci_low = e.ci_high = {};
  if (const MetricRow* row = row_of(name); row && e.ci_low) {
    e.ci_low = std::max(*e.ci_low, row->least);
    e.ci_high = std::min(*e.ci_high, row->most);
  }
  return e;
}

// The values of the seeds that both have, in the same order.
std::pair<statistics::Sample, statistics::Sample> common_seeds(const Metric& a, const Metric& b) {
  std::pair<statistics::Sample, statistics::Sample> pairs;
  for (size_t i = 0; i < a.seeds.size(); ++i)
    for (size_t j = 0; j < b.seeds.size(); ++j)
      if (a.seeds[i] == b.seeds[j]) {
        pairs.first.push_back(a.values[i]);
        pairs.second.push_back(b.values[j]);
      }
  return pairs;
}

// One metric against one baseline in all configurations: one Holm family for each of the two tests.
void compare_all(std::vector<ConfigSummary>& configs, const std::string& metric, const std::string& baseline) {
  const auto base = std::find_if(configs.begin(), configs.end(), [&](auto& c) { return c.config == baseline; });
  if (base == configs.end() || !base->find(metric)) return;
  const Metric reference = *base->find(metric);
  std::vector<Comparison*> family;
  for (ConfigSummary& c : configs) {
    if (c.config == baseline || !c.find(metric)) continue;
    Metric& ours = c.metrics.at(metric);
    Comparison& result = ours.vs.emplace_back();
    result.baseline = baseline;
    result.difference = *ours.estimate.mean - *reference.estimate.mean;
    const size_t fewest = std::min(ours.values.size(), reference.values.size());
    if (const auto test = statistics::welch(ours.values, reference.values); test && fewest >= kLeastSeeds) {
      result.welch_p = test->p;
      const MetricRow* row = row_of(metric);  // no difference is larger than its metric's range
      result.ci_low = row ? std::max(test->ci_low, row->least - row->most) : test->ci_low;
      result.ci_high = row ? std::min(test->ci_high, row->most - row->least) : test->ci_high;
    }
    const auto [x, y] = common_seeds(ours, reference);
    if (const auto test = statistics::paired(x, y); test && x.size() >= kLeastSeeds) result.paired_p = test->p;
    if (fewest >= kLeastSeeds) result.cohen_d = statistics::cohen_d(ours.values, reference.values);
    family.push_back(&result);
  }
  std::vector<std::optional<double>> welch, paired;
  for (const Comparison* c : family) welch.push_back(c->welch_p), paired.push_back(c->paired_p);
  welch = statistics::holm(welch), paired = statistics::holm(paired);
  for (size_t i = 0; i < family.size(); ++i) family[i]->welch_holm = welch[i], family[i]->paired_holm = paired[i];
}

// --- JSON ----------------------------------------------------------------------------------------

template <class T> void put(Json& json, const char* key, const std::optional<T>& value) {
  json[key] = value ? Json(*value) : Json();  // null: n/a
}

std::optional<double> optional_from(const Json& json, const char* key) {
  const auto it = json.find(key);
  return it == json.end() || it->is_null() ? std::optional<double>() : it->get<double>();
}

Json to_json(const Metric& m) {
  Json json = {{"n", m.estimate.n}};
  put(json, "mean", m.estimate.mean);
  put(json, "sd", m.estimate.sd);
  put(json, "se", m.estimate.se);
  put(json, "ci_low", m.estimate.ci_low);
  put(json, "ci_high", m.estimate.ci_high);
  json["seeds"] = m.seeds;
  json["values"] = m.values;
  for (const Comparison& c : m.vs) {
    Json& vs = json["vs"][c.baseline];
    put(vs, "difference", c.difference);
    put(vs, "ci_low", c.ci_low);
    put(vs, "ci_high", c.ci_high);
    put(vs, "welch_p", c.welch_p);
    put(vs, "welch_p_holm", c.welch_holm);
    put(vs, "paired_p", c.paired_p);
    put(vs, "paired_p_holm", c.paired_holm);
    put(vs, "cohen_d", c.cohen_d);
  }
  return json;
}

// What JSON's 1e300 becomes as an int is not defined, so nothing but an integer is converted.
int whole(const Json& json) {
  if (!json.is_number_integer()) throw std::domain_error("expected a whole number, got " + json.dump());
  return json.get<int>();
}

std::vector<int> whole_list(const Json& json) {
  if (!json.is_array()) throw std::domain_error("expected a list, got " + json.dump());
  std::vector<int> numbers;
  for (const Json& number : json) numbers.push_back(whole(number));
  return numbers;
}

Metric metric_from(const Json& json) {
  Metric m;
  m.estimate = {whole(json.at("n")),       optional_from(json, "mean"),   optional_from(json, "sd"),
                optional_from(json, "se"), optional_from(json, "ci_low"), optional_from(json, "ci_high")};
  m.seeds = whole_list(json.at("seeds"));
  m.values = json.at("values").get<std::vector<double>>();
  if (json.contains("vs"))
    for (const auto& [baseline, vs] : json.at("vs").items())
      m.vs.push_back({baseline, optional_from(vs, "difference"), optional_from(vs, "ci_low"),
                      optional_from(vs, "ci_high"), optional_from(vs, "welch_p"), optional_from(vs, "welch_p_holm"),
                      optional_from(vs, "paired_p"), optional_from(vs, "paired_p_holm"),
                      optional_from(vs, "cohen_d")});
  return m;
}

// Of a run, in its timing.json and in that of all runs.
constexpr std::pair<const char*, std::optional<double> RunLine::*> kTimes[] = {
    {"seconds", &RunLine::seconds},
    {"peak_bytes", &RunLine::peak_bytes},
    {"ms_per_step", &RunLine::step_ms},
    {"parameters", &RunLine::parameters}};

constexpr const char* kStates[] = {"done", "failed", "unfinished"};

}  // namespace

const Metric* ConfigSummary::find(const std::string& name) const {
  const auto it = metrics.find(name);
  return it == metrics.end() ? nullptr : &it->second;
}

const Comparison* ConfigSummary::against(const std::string& metric, const std::string& baseline) const {
  if (const Metric* m = find(metric))
    for (const Comparison& c : m->vs)
      if (c.baseline == baseline) return &c;
  return nullptr;
}

const ConfigSummary* Summary::find(const std::string& config) const {
  for (const ConfigSummary& c : configs)
    if (c.config == config) return &c;
  return nullptr;
}

bool any_mass(const Summary& s) {
  return std::ranges::any_of(s.configs,
                             [](const ConfigSummary& c) { return c.find(layer_metric("specialisation_mass", 1)); });
}

std::string layer_metric(const std::string& name, int layer) { return fmt::format("{}.{}", name, layer); }

Summary summarise(const Listing& listing) {
  if (listing.runs.empty())
    fail_input("{}: has no readable run{}", listing.out,
               listing.problems.empty() ? "" : "; the first problem: " + listing.problems[0].message);
  require_comparable(listing.runs);
  Summary s;
  s.out = listing.out;
  s.study = listing.study;
  s.common = listing.runs[0].config;
  std::set<int> seeds;
  std::vector<std::string> unreadable;
  for (const Run& run : listing.runs) {
    seeds.insert(run.config.seed_index);
    auto at = std::ranges::find(s.configs, run.config.config, &ConfigSummary::config);
    if (at == s.configs.end())
      at = s.configs.insert(
          at, ConfigSummary{run.config.config, run.config.moe(), run.config.experts(), {}, {}, {}, {}});
    RunLine line{run.config.config, run.config.seed_index, run.state, "", {}, {}, {}, {}, {}};
    if (run.state == RunState::done) {
      at->seeds.push_back(run.config.seed_index);
      add_run(*at, run);
      try {
        for (const auto& [name, value] : analysis_values(run)) add_value(*at, name, run.config.seed_index, value);
      } catch (const Error& error) {  // what was trained is worth a summary without it
        unreadable.push_back(error.what());
      }
      s.near_copies = std::max(s.near_copies, run.evaluation->near_copies.value_or(0));
      line.accuracy = run.evaluation->accuracy();
      if (run.config.moe()) s.layers = run.config.layers();
    } else {
      (run.state == RunState::failed ? at->failed : at->unfinished).push_back(run.config.seed_index);
      if (run.failure) line.reason = run.failure->reason;
    }
    for (const auto& [key, member] : kTimes)
      if (const auto it = run.timing.find(key); it != run.timing.end() && it->is_number())
        line.*member = it->get<double>();
    s.seconds += line.seconds.value_or(0);
    s.runs.push_back(std::move(line));
  }
  s.seeds.assign(seeds.begin(), seeds.end());
  const auto before = [&](const std::string& a, const std::string& b) { return configuration_less(s.study, a, b); };
  std::ranges::sort(s.configs, before, &ConfigSummary::config);
  for (ConfigSummary& c : s.configs)
    for (auto& [name, metric] : c.metrics) metric.estimate = estimated(name, metric.values);
  std::vector<std::string> compared = {"accuracy", kAccuracyWithoutNearCopies};
  for (const MetricRow* row : metric_rows(Stage::evaluation))
    if (row->compared) compared.emplace_back(row->name);
  for (const std::string& metric : compared)
    for (const std::string& baseline : s.study.accuracy_baselines) compare_all(s.configs, metric, baseline);
  std::vector<std::string> of_layers = {kSpecialisation};
  for (const MetricRow* row : metric_rows(Stage::routing))
    if (row->compared) of_layers.emplace_back(row->name);
  for (int l = 1; l <= s.layers; ++l)
    for (const std::string& metric : of_layers)
      for (const std::string& baseline : s.study.routing_baselines)
        compare_all(s.configs, layer_metric(metric, l), baseline);
  add_warnings(s, listing);
  for (const std::string& message : unreadable) s.warnings.push_back("Not readable: " + message);
  return s;
}

Summary summarise(const std::string& out) { return summarise(list_runs(out)); }

Json to_json(const Summary& s) {
  Json json = {{"study", s.study.name}, {"study_text", s.study.text}, {"seeds", s.seeds},
               {"layers", s.layers},    {"warnings", s.warnings},     {"common", to_json(s.common)}};
  if (s.near_copies > 0) json["near_copies"] = s.near_copies;
  json["configs"] = Json::array();
  for (const ConfigSummary& c : s.configs) {
    Json& entry = json["configs"].emplace_back();
    entry = {{"config", c.config}, {"moe", c.moe},       {"experts", c.experts},
             {"seeds", c.seeds},   {"failed", c.failed}, {"unfinished", c.unfinished}};
    entry["metrics"] = Json::object();
    for (const auto& [name, metric] : c.metrics) entry["metrics"][name] = to_json(metric);
  }
  json["runs"] = Json::array();
  for (const RunLine& run : s.runs) {
    Json& line = json["runs"].emplace_back();
    line = {{"config", run.config}, {"seed_index", run.seed_index}, {"state", kStates[int(run.state)]}};
    if (!run.reason.empty()) line["reason"] = run.reason;
    put(line, "accuracy", run.accuracy);
  }
  return json;
}

namespace {

// A mistake in the study's text is told with the file that the text stands in.
Study study_from(const Json& json, const std::string& from) {
  const std::string text = json["study_text"].get<std::string>(), name = json.at("study").get<std::string>();
  try {
    return parse_study(text, name);
  } catch (const Error& error) {
    fail_input("{}: study_text: {}", from, error.what());
  }
}

}  // namespace

Summary summary_from(const Json& json, const std::string& from) {
  try {
    Summary s;
    s.out = std::filesystem::path(from).parent_path().string();
    s.study = json.contains("study_text")  // a summary without it is from before there was a choice
                  ? study_from(json, from)
                  : built_in_studies().front();
    s.seeds = whole_list(json.at("seeds"));
    s.layers = whole(json.at("layers"));
    const int experts = json.contains("experts") ? whole(json["experts"]) : 0;  // of older files: of all
    s.near_copies = json.contains("near_copies") ? whole(json["near_copies"]) : 0;
    s.warnings = json.at("warnings").get<std::vector<std::string>>();
    s.common = run_config_from(json.at("common"), from);
    for (const Json& entry : json.at("configs")) {
      ConfigSummary c;
      c.config = entry.at("config").get<std::string>();
      c.moe = entry.at("moe").get<bool>();
      c.experts = entry.contains("experts") ? whole(entry["experts"]) : c.moe ? experts : 0;
      c.seeds = whole_list(entry.at("seeds"));
      c.failed = whole_list(entry.at("failed"));
      c.unfinished = whole_list(entry.at("unfinished"));
      for (const auto& [name, metric] : entry.at("metrics").items()) c.metrics[name] = metric_from(metric);
      s.configs.push_back(std::move(c));
    }
    for (const Json& line : json.at("runs")) {
      const std::string state = line.at("state").get<std::string>();
      const auto index = std::ranges::find(kStates, state) - std::begin(kStates);
      if (index == std::ssize(kStates)) fail_input("{}: expected a run's state, got \"{}\"", from, state);
      s.runs.push_back({line.at("config").get<std::string>(),
                        whole(line.at("seed_index")),
                        RunState(index),
                        line.value("reason", ""),
                        optional_from(line, "accuracy"),
                        {},
                        {},
                        {},
                        {}});
    }
    return s;
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {  // JSON's, or whole()'s
    fail_input("{}: is no summary: {}", from, error.what());
  }
}

Summary read_summary(const std::string& path_given) {
  const std::string path = std::filesystem::is_directory(path_given) ? path_given + "/summary.json" : path_given;
  Summary s = summary_from(read_json_object(path), path);
  const std::string timing = s.out + "/timing.json";
  if (!std::filesystem::exists(timing)) return s;
  const Json times = Json::parse(read_file(timing), nullptr, false);
  if (!times.is_object()) return s;
  s.seconds = Fields{times, timing}.get<double>("seconds", 0.0);
  if (const auto runs = times.find("runs"); runs != times.end() && runs->is_array())
    for (const Json& one : *runs) {
      const Fields f{one, timing};
      for (RunLine& run : s.runs)
        if (run.config == f.get<std::string>("config") && run.seed_index == f.get<int>("seed_index"))
          for (const auto& [key, member] : kTimes)
            if (one.contains(key)) run.*member = f.get<double>(key);
    }
  return s;
}

std::string summary_csv(const Summary& s) {
  std::string text =
      "config,metric,n,mean,sd,se,ci_low,ci_high,baseline,difference,difference_low,difference_high,welch_p,"
      "welch_p_holm,paired_p,paired_p_holm,cohen_d\n";
  const auto number = [](const std::optional<double>& x) { return x ? fmt::format("{:.17g}", *x) : std::string(); };
  for (const ConfigSummary& config : s.configs)
    for (const auto& [name, m] : config.metrics) {
      const auto& e = m.estimate;
      const std::string start = fmt::format("{},{},{},{},{},{},{},{}", config.config, name, e.n, number(e.mean),
                                            number(e.sd), number(e.se), number(e.ci_low), number(e.ci_high));
      if (m.vs.empty()) text += start + ",,,,,,,,,\n";
      for (const Comparison& c : m.vs)
        text += fmt::format("{},{},{},{},{},{},{},{},{},{}\n", start, c.baseline, number(c.difference),
                            number(c.ci_low), number(c.ci_high), number(c.welch_p), number(c.welch_holm),
                            number(c.paired_p), number(c.paired_holm), number(c.cohen_d));
    }
  return text;
}

void write_summary(const std::string& out, const Summary& summary) {
  // The folder's name is whatever bytes it has: JSON shows those that are no UTF-8 as U+FFFD.
  write_file_atomic(out + "/summary.json",
                    to_json(summary).dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
  write_file_atomic(out + "/summary.csv", summary_csv(summary));
  Json timing = {{"seconds", summary.seconds}};
  timing["runs"] = Json::array();
  for (const RunLine& run : summary.runs) {
    if (!run.seconds) continue;
    Json& entry = timing["runs"].emplace_back();
    entry = {{"config", run.config}, {"seed_index", run.seed_index}};
    for (const auto& [key, member] : kTimes)
      if (run.*member) entry[key] = *(run.*member);
  }
  write_file_atomic(out + "/timing.json", timing.dump(1) + "\n");
}

}  // namespace glia::results
