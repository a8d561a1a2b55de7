#include "experiments/records/metrics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/core/check.h"
#include "experiments/records/routing/routing_shares.h"

namespace glia::results {
namespace {

// Of a finished run as a whole; experiments/report/of_runs/analysis_values.cpp reads them.
void add_analysis_rows(std::vector<MetricRow>& rows) {
  const auto share = [&](const char* name, const char* label, const char* help) {
    rows.push_back(
        {.name = name, .label = label, .help = help, .stage = Stage::analysis, .digits = 3, .least = 0, .most = 1});
  };
  share(
      "layer_overlap", "layers agree",
      "layers agree: share of the tokens whose first experts agree in two layers that follow each other, experts matched one "
      "to one");
  share("layer_information", "… information",
        "… information: normalised mutual information of these choices, which needs no matching");
  share("topic_probe", "topic probe",
        "topic probe: a linear probe's accuracy in naming a sequence's topic from its routing");
  share(
      "saturation", "saturation",
      "saturation: share of a token's experts that it had half-way through training already (the evaluation next to it), mean "
      "over layers");
  share("saturation_first", "… first", "… first: the same of first choices");
  share(
      "seed_overlap", "seeds agree",
      "seeds agree: share of the choices that agree with another seed's (tools/analyse --against), experts matched one to one, "
      "mean over layers");
}

std::vector<MetricRow> make_rows() {
  using enum Stage;
  std::vector<MetricRow> rows;
  // A step's line of metrics.jsonl has these keys first and in this order (0 where a model has no such loss), then
  // whatever other losses there are.
  rows.push_back({.name = "loss",
                  .label = "loss",
                  .help = "training loss with all weighted parts, nats",
                  .stage = step,
                  .column = true});
  rows.push_back(
      {.name = "ce", .label = "ce", .help = "the task's cross-entropy, nats", .stage = step, .column = true});
  rows.push_back(
      {.name = "balance", .label = "bal", .help = "balance loss, unweighted", .stage = step, .column = true});
  rows.push_back(
      {.name = "energy", .label = "en", .help = "energy loss, unweighted", .stage = step, .column = true});
  rows.push_back({.name = "lr", .label = "lr", .help = "learning rate", .stage = step});
  rows.push_back(
      {.name = "grad_norm", .label = "norm", .help = "global norm of the gradient before clipping", .stage = step});

  rows.push_back({.name = "accuracy",
                  .label = "accuracy",
                  .help = "share of right predictions, 0 … 1",
                  .stage = evaluation,
                  .better = Better::higher,
                  .least = 0,
                  .most = 1});
  rows.push_back({.name = kAccuracyWithoutNearCopies,
                  .label = "without near copies",
                  .help = "accuracy on the test rows that do not nearly stand among the training rows, 0 … 1",
                  .stage = evaluation,
                  .better = Better::higher,
                  .least = 0,
                  .most = 1});
  rows.push_back({.name = "loss",
                  .label = "loss",
                  .help = "the task's loss alone, nats",
                  .stage = evaluation,
                  .better = Better::lower});
  rows.push_back({.name = "perplexity",
                  .label = "perplexity",
                  .help = "e to the loss of a token that is to be predicted",
                  .stage = evaluation,
                  .digits = 2,
                  .better = Better::lower,
                  .least = 0});
  rows.push_back({.name = "word_loss",
                  .label = "loss a word",
                  .help = "a language model's loss of all tokens by the words among them, nats",
                  .stage = evaluation,
                  .better = Better::lower,
                  .compared = true});
  rows.push_back({.name = "word_perplexity",
                  .label = "perplexity a word",
                  .help = "e to the loss a word: it does not depend on how words are cut into tokens",
                  .stage = evaluation,
                  .digits = 1,
                  .better = Better::lower,
                  .least = 0});
  rows.push_back({.name = "validation_accuracy",
                  .label = "validation",
                  .help = "accuracy of the chosen model on the validation rows",
                  .stage = evaluation,
                  .better = Better::higher,
                  .least = 0,
                  .most = 1});

  for (MetricRow& row : cost_rows()) rows.push_back(std::move(row));
  for (MetricRow& row : routing_rows()) rows.push_back(std::move(row));
  for (MetricRow& row : share_rows()) rows.push_back(std::move(row));
  add_analysis_rows(rows);
  return rows;
}

// A row that is read from tokens exists only where somebody kept them, and one of shares where a router has them.
bool not_always(const MetricRow& row) {
  return std::holds_alternative<FromCounts>(row.read) || std::holds_alternative<std::monostate>(row.read);
}

Json json_of(const MetricRow& row, const MetricValue& value) {
  const auto number = [&](double x) {
    return row.whole && std::isfinite(x) ? Json(int64_t(std::llround(x))) : Json(x);
  };
  if (row.form == Form::scalar) return value.values.empty() ? Json() : number(value.values[0]);
  Json list = Json::array();
  if (row.form == Form::vector) {
    for (double x : value.values) list.push_back(number(x));
  } else {
    for (size_t i = 0; i < value.values.size(); ++i) {
      if (i % size_t(value.columns) == 0) list.push_back(Json::array());
      list.back().push_back(number(value.values[i]));
    }
  }
  return list;
}

MetricValue value_from(const MetricRow& row, const Fields& f) {
  const Json& json = f.at(row.name);
  if (row.form == Form::vector) return f.list<double>(row.name);
  if (row.form == Form::matrix) {
    MetricValue value;
    if (!json.is_array()) fail_input("{}: expected a list as \"{}\", got {}", f.from, row.name, json.type_name());
    for (const Json& line : json) {
      const Json named = {{row.name, line}};
      const std::vector<double> numbers = Fields{named, f.from}.list<double>(row.name);
      value.columns = int(numbers.size());
      value.values.insert(value.values.end(), numbers.begin(), numbers.end());
    }
    return value;
  }
  if (json.is_null()) return {};
  return row.whole ? double(f.get<int64_t>(row.name)) : f.get<double>(row.name);
}

MetricValue read(const MetricRow& row, const RoutingReading& reading) {
  if (const auto* utilisation = std::get_if<FromUtilisation>(&row.read)) {
    const auto value = (*utilisation)(row.first_rows ? reading.cls : reading.all);
    return value ? MetricValue(*value) : MetricValue();
  }
  if (const auto* loads = std::get_if<FromLoads>(&row.read)) return (*loads)(reading.loads);
  return {};
}

}  // namespace

const std::vector<MetricRow>& metric_rows() {
  static const std::vector<MetricRow> rows = make_rows();
  return rows;
}

const MetricRow* metric_row(Stage stage, const std::string& name) {
  for (const MetricRow& row : metric_rows())
    if (row.stage == stage && name == row.name) return &row;
  return nullptr;
}

std::vector<const MetricRow*> metric_rows(Stage stage) {
  std::vector<const MetricRow*> rows;
  for (const MetricRow& row : metric_rows())
    if (row.stage == stage) rows.push_back(&row);
  return rows;
}

std::optional<double> combined(Over how, std::span<const double> values) {
  CHECK(how != Over::inputs, "metrics: values whose inputs are added up first were to be combined");
  if (values.empty() || std::ranges::any_of(values, [](double x) { return std::isnan(x); })) return {};
  if (how == Over::largest) return *std::max_element(values.begin(), values.end());
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  return how == Over::sum ? sum : sum / double(values.size());
}

void NamedValues::set(const std::string& name, double value) {
  for (auto& [key, old] : values_)
    if (key == name) {
      old = value;
      return;
    }
  values_.emplace_back(name, value);
}

const double* NamedValues::find(const std::string& name) const {
  for (const auto& [key, value] : values_)
    if (key == name) return &value;
  return nullptr;
}

double NamedValues::get(const std::string& name, double otherwise) const {
  const double* value = find(name);
  return value ? *value : otherwise;
}

LayerMetrics::LayerMetrics() : values_(metric_rows(Stage::routing).size()) {}

size_t LayerMetrics::place(const std::string& name) const {
  static const std::vector<const MetricRow*> rows = metric_rows(Stage::routing);
  const auto it = std::ranges::find_if(rows, [&](const MetricRow* row) { return name == row->name; });
  CHECK(it != rows.end(), "metrics: no row of a layer is called \"{}\"", name);
  return size_t(it - rows.begin());
}

const MetricValue& LayerMetrics::operator[](const std::string& name) const { return values_[place(name)]; }
MetricValue& LayerMetrics::operator[](const std::string& name) { return values_[place(name)]; }

double LayerMetrics::scalar(const std::string& name) const {
  const MetricValue& value = (*this)[name];
  return value.values.size() == 1 ? value.values[0] : std::nan("");
}

namespace {

bool nobody(const std::vector<double>& loads) {
  return std::ranges::all_of(loads, [](double load) { return load == 0; });
}

// A router that chooses by a threshold may choose nobody, a trace may have a dense layer: no share of nothing is known.
LayerMetrics metrics_of_nobody(std::vector<double> loads) {
  LayerMetrics metrics;
  metrics["dead_experts"] = MetricValue(double(loads.size()));
  metrics["loads"] = MetricValue(std::move(loads));
  return metrics;
}

}  // namespace

RoutingReading reading_of(const LayerCounts& counts) {
  const double total = std::accumulate(counts.gates.values.begin(), counts.gates.values.end(), 0.0);
  RoutingReading reading{counts.gates, counts.first_gates, std::vector<double>(size_t(counts.n_experts), 0.0)};
  for (int c = 0; c < counts.topics; ++c)
    for (int e = 0; e < counts.n_experts; ++e) {
      reading.loads[size_t(e)] += counts.gates(c, e) / (total > 0 ? total : 1);
      reading.all(c, e) /= std::max(counts.topic_tokens[size_t(c)], 1.0);
      reading.cls(c, e) /= std::max(counts.topic_firsts[size_t(c)], 1.0);
    }
  return reading;
}

RoutingReading reading_of(const TokenTrace& trace, int layer) { return reading_of(counts_of(trace, layer)); }

LayerMetrics layer_metrics(const RoutingReading& reading) {
  if (nobody(reading.loads)) return metrics_of_nobody(reading.loads);
  LayerMetrics metrics;
  for (const MetricRow* row : metric_rows(Stage::routing)) metrics[row->name] = read(*row, reading);
  return metrics;
}

LayerMetrics layer_metrics(const LayerCounts& counts) {
  LayerMetrics metrics = layer_metrics(reading_of(counts));
  for (const MetricRow* row : metric_rows(Stage::routing))
    if (const auto* read_counts = std::get_if<FromCounts>(&row->read)) metrics[row->name] = (*read_counts)(counts);
  return metrics;
}

LayerMetrics layer_metrics(const TokenTrace& trace, int layer) { return layer_metrics(counts_of(trace, layer)); }

LayerMetrics layer_metrics(const Matrix& all, const Matrix& cls, std::vector<double> loads) {
  CHECK(all.rows == cls.rows && all.cols == cls.cols,
        "layer metrics: utilisation is [{}, {}], its CLS view [{}, {}]", all.rows, all.cols, cls.rows, cls.cols);
  if (loads.empty()) loads = topic_mean_loads(all);
  CHECK(int(loads.size()) == all.cols, "layer metrics: {} loads for {} experts", loads.size(), all.cols);
  const double total = std::accumulate(loads.begin(), loads.end(), 0.0);
  CHECK(total >= 0, "layer metrics: the loads sum to {}", total);
  if (nobody(loads)) return metrics_of_nobody(std::move(loads));
  for (double& load : loads) load /= total;
  return layer_metrics(RoutingReading{all, cls, std::move(loads)});
}

Json to_json(const LayerMetrics& layer, bool logged_only) {
  std::vector<const MetricRow*> rows = metric_rows(Stage::routing);
  std::erase_if(rows, [&](const MetricRow* row) {
    return (logged_only && row->logged == 0) || (not_always(*row) && layer[row->name].values.empty());
  });
  if (logged_only) std::ranges::stable_sort(rows, {}, &MetricRow::logged);
  Json json = Json::object();
  for (const MetricRow* row : rows) json[row->name] = json_of(*row, layer[row->name]);
  return json;
}

LayerMetrics layer_metrics_from(const Json& json, const std::string& from) {
  const Fields f{json, from};
  LayerMetrics metrics;
  const RoutingReading reading{{}, {}, f.list<double>("loads")};
  for (const MetricRow* row : metric_rows(Stage::routing)) {
    if (json.contains(row->name)) metrics[row->name] = value_from(*row, f);
    else if (std::holds_alternative<FromLoads>(row->read) && !reading.loads.empty())
      metrics[row->name] = read(*row, reading);
  }
  return metrics;
}

}  // namespace glia::results
