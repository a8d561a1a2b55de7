// What the records look like in JSON: config.json, eval.json and the lines of metrics.jsonl.
#include <fmt/format.h>

#include "experiments/records/results.h"

namespace glia::results {
namespace {

std::vector<LayerMetrics> layers_from(const Json& json, const std::string& from) {
  std::vector<LayerMetrics> layers;
  if (!json.is_array()) fail_input("{}: expected a list as \"layers\", got {}", from, json.type_name());
  for (const Json& layer : json) layers.push_back(layer_metrics_from(layer, from));
  return layers;
}

// The task's metrics are the numbers of the object that are nothing else; a classifier has accuracy and loss.
NamedValues task_values(const Json& json, const std::string& from) {
  const Fields f{json, from};
  NamedValues values;
  for (const auto& [key, value] : json.items()) {
    const bool other = key == "step" || key == "rows" || key == "validation_accuracy" || key == "near_copies";
    if (!other && (value.is_number() || value.is_null())) values.set(key, f.get<double>(key.c_str()));
  }
  f.get<double>("loss");  // every task has one
  return values;
}

}  // namespace

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
  json["study"] = c.study;
  if (!c.sets.empty()) json["sets"] = c.sets;
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
  c.study = f.get<std::string>("study", kDefaultStudy);
  if (json.contains("sets")) c.sets = f.list<std::string>("sets");
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
  const auto hidden = model.get<int64_t>("hidden", 1), heads = model.get<int64_t>("heads", 1);
  if (heads > 0 && hidden % heads != 0)
    fail_input("{}: expected a model.hidden that its {} heads divide, got {}", from, heads, hidden);
  if (c.train.contains("task") && !c.train.at("task").is_string())
    fail_input("{}: expected text as train.task, got {}", from, c.train.at("task").dump());
  if (model.get<int>("experts") < 0) fail_input("{}: expected model.experts >= 0", from);
  return c;
}

Json to_json(const TrainPoint& p) {
  Json json = {{"kind", "train"}, {"step", p.step}, {"epoch", p.epoch}};
  for (const MetricRow* row : metric_rows(Stage::step)) json[row->name] = p.values.get(row->name, 0);
  for (const auto& [name, value] : p.values) json[name] = value;
  return json;
}

Json to_json(const EvalPoint& p) {
  Json json = {{"kind", "eval"}, {"split", p.split}, {"step", p.step}};
  for (const auto& [name, value] : p.values) json[name] = value;
  json["layers"] = Json::array();
  for (const LayerMetrics& layer : p.layers) json["layers"].push_back(to_json(layer, true));
  return json;
}

Json to_json(const Evaluation& e) {
  Json json = {{"step", e.step}, {"split", e.split}, {"rows", e.rows}};
  for (const auto& [name, value] : e.values) json[name] = value;
  json["class_accuracy"] = e.class_accuracy;
  if (e.validation_accuracy) json["validation_accuracy"] = *e.validation_accuracy;
  if (e.near_copies) json["near_copies"] = *e.near_copies;
  json["layers"] = Json::array();
  for (size_t l = 0; l < e.layers.size(); ++l) {
    Json entry = {{"layer", l + 1}};
    entry.update(to_json(e.layers[l], false));
    json["layers"].push_back(std::move(entry));
  }
  return json;
}

TrainPoint train_point_from(const Json& json, const std::string& from) {
  const Fields f{json, from};
  TrainPoint p;
  p.step = f.get<int64_t>("step");
  p.epoch = f.get<double>("epoch");
  for (const MetricRow* row : metric_rows(Stage::step)) p.values.set(row->name, f.get<double>(row->name));
  for (const auto& [key, value] : json.items())
    if (key != "kind" && key != "step" && key != "epoch") p.values.set(key, f.get<double>(key.c_str()));
  return p;
}

EvalPoint eval_point_from(const Json& json, const std::string& from) {
  const Fields f{json, from};
  EvalPoint p;
  p.split = f.get<std::string>("split");
  p.step = f.get<int64_t>("step");
  p.values = task_values(json, from);
  p.layers = layers_from(f.at("layers"), from);
  return p;
}

Evaluation evaluation_from(const Json& json, const std::string& from) {
  const Fields f{json, from};
  Evaluation e;
  e.step = f.get<int64_t>("step");
  e.split = f.get<std::string>("split");
  e.rows = f.get<int64_t>("rows");
  e.values = task_values(json, from);
  e.class_accuracy = f.list<double>("class_accuracy");
  if (json.contains("validation_accuracy")) e.validation_accuracy = f.get<double>("validation_accuracy");
  if (json.contains("near_copies")) e.near_copies = f.get<int64_t>("near_copies");
  e.layers = layers_from(f.at("layers"), from);
  for (const auto& [name, value] : e.values)
    if (const MetricRow* row = metric_row(Stage::evaluation, name);
        row && !(value >= row->least && value <= row->most))
      if (std::isfinite(row->most))
        fail_input("{}: expected {} in {}…{}, got {}", from, name, row->least, row->most, value);
  return e;
}

}  // namespace glia::results
