#include "experiments/records/metrics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/core/check.h"
#include "experiments/records/routing_shares.h"

namespace glia::results {
namespace {

double zero(int) { return 0; }

// Mean over tokens of the first gate minus the second; tokens without experts are left out.
MetricValue gate_margin(const TokenTrace& t, int layer) {
  double sum = 0;
  int64_t routed = 0;
  for (int64_t n = 0; n < t.tokens; ++n) {
    const size_t at = size_t((n * t.layers + layer) * t.slots);
    if (t.experts[at] < 0) continue;
    const bool two = t.slots > 1 && t.experts[at + 1] >= 0;
    sum += double(t.gates[at]) - (two ? double(t.gates[at + 1]) : 0.0);
    ++routed;
  }
  return routed > 0 ? MetricValue(sum / double(routed)) : MetricValue();
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
  rows.push_back({.name = "validation_accuracy",
                  .label = "validation",
                  .help = "accuracy of the chosen model on the validation rows",
                  .stage = evaluation,
                  .better = Better::higher,
                  .least = 0,
                  .most = 1});

  for (MetricRow& row : cost_rows()) rows.push_back(std::move(row));

  // docs/science.md 4 and 9. eval.json has a layer's keys in this order.
  rows.push_back(
      {.name = "specialisation",
       .label = "specialisation",
       .help = "specialisation: mean over experts of the standard deviation over topics of the mean gate, 0 … 0.5",
       .stage = routing,
       .least = 0,
       .read = FromUtilisation(specialisation),
       .logged = 1,
       .compared = true,
       .even = zero});
  rows.push_back({.name = "specialisation_cls",
                  .label = "… CLS",
                  .help = "… CLS: the same over CLS rows only",
                  .stage = routing,
                  .least = 0,
                  .read = FromUtilisation(specialisation),
                  .first_rows = true,
                  .logged = 2,
                  .compared = true,
                  .even = zero});
  rows.push_back({.name = "mutual_information_bits",
                  .label = "MI",
                  .help = "MI: mutual information of topic and expert in bits, 0 … log2 of the smaller number",
                  .stage = routing,
                  .digits = 3,
                  .least = 0,
                  .read = FromUtilisation(mutual_information_bits),
                  .even = zero});
  rows.push_back({.name = "mutual_information_bits_cls",
                  .label = "MI, CLS",
                  .help = "MI, CLS: over CLS rows only",
                  .stage = routing,
                  .digits = 3,
                  .least = 0,
                  .read = FromUtilisation(mutual_information_bits),
                  .first_rows = true,
                  .even = zero});
  rows.push_back({.name = "entropy_bits",
                  .label = "entropy",
                  .help = "entropy: of the experts' loads in bits",
                  .stage = routing,
                  .digits = 2,
                  .least = 0,
                  .read = FromLoads([](const std::vector<double>& l) { return MetricValue(load_entropy_bits(l)); }),
                  .logged = 4,
                  .even = [](int n) { return std::log2(n); }});
  rows.push_back({.name = "load_cv",
                  .label = "load CV",
                  .help = "load CV: standard deviation over mean of the experts' loads",
                  .stage = routing,
                  .digits = 3,
                  .least = 0,
                  .read = FromLoads([](const std::vector<double>& l) { return MetricValue(load_cv(l)); }),
                  .logged = 3,
                  .even = zero});
  rows.push_back(
      {.name = "dead_experts",
       .label = "dead",
       .help = "dead: experts below a hundredth of an even share",
       .stage = routing,
       .digits = 1,
       .least = 0,
       .layers = Over::sum,
       .read = FromLoads([](const std::vector<double>& l) { return MetricValue(double(dead_experts(l))); }),
       .whole = true,
       .even = zero});
  rows.push_back({.name = "largest_share",
                  .label = "largest",
                  .help = "largest: the busiest expert's share of the load",
                  .stage = routing,
                  .digits = 3,
                  .least = 0,
                  .most = 1,
                  .layers = Over::largest,
                  .read = FromLoads([](const std::vector<double>& l) {
                    return MetricValue(*std::max_element(l.begin(), l.end()));
                  }),
                  .even = [](int n) { return 1.0 / n; }});
  rows.push_back({.name = "loads",
                  .label = "loads",
                  .help = "loads: each expert's share of all gate mass",
                  .stage = routing,
                  .read = FromLoads([](const std::vector<double>& l) { return MetricValue(l); }),
                  .form = Form::vector,
                  .logged = 5});
  rows.push_back(
      {.name = "effective_experts",
       .label = "effective",
       .help = "effective: exp of the loads' entropy, as many experts used evenly would have it",
       .stage = routing,
       .digits = 2,
       .least = 0,
       .read = FromLoads([](const std::vector<double>& l) { return MetricValue(std::exp2(load_entropy_bits(l))); }),
       .logged = 6,
       .even = [](int n) { return double(n); }});
  rows.push_back({.name = "gate_margin",
                  .label = "margin",
                  .help = "margin: first gate minus second, mean over tokens",
                  .stage = routing,
                  .digits = 3,
                  .read = FromTrace(gate_margin)});
  for (MetricRow& row : share_rows()) rows.push_back(std::move(row));
  return rows;
}

// A row that is read from tokens exists only where somebody kept them, and one of shares where a router has them.
bool not_always(const MetricRow& row) {
  return std::holds_alternative<FromTrace>(row.read) || std::holds_alternative<std::monostate>(row.read);
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

RoutingReading reading_of(const TokenTrace& t, int layer) {
  CHECK(layer >= 0 && layer < t.layers, "trace: layer {} of {}", layer, t.layers);
  const size_t size = size_t(t.tokens) * size_t(t.layers) * size_t(t.slots);
  if (t.experts.size() != size || t.gates.size() != size)
    fail_input("trace: expected {} × {} × {} experts and gates, got {} and {}", t.tokens, t.layers, t.slots,
               t.experts.size(), t.gates.size());
  for (const auto& [name, length] : {std::pair{"topic", t.topic.size()}, {"first", t.first.size()}})
    if (length != 0 && length != size_t(t.tokens))
      fail_input("trace: expected a {} a token ({}), got {}", name, t.tokens, length);
  RoutingReading reading{Matrix(t.topics, t.n_experts), Matrix(t.topics, t.n_experts), {}};
  std::vector<double> tokens(size_t(t.topics), 0.0), firsts = tokens;
  reading.loads.assign(size_t(t.n_experts), 0.0);
  for (int64_t n = 0; n < t.tokens; ++n) {
    const int topic = t.topic.empty() ? 0 : t.topic[size_t(n)];
    const bool first = !t.first.empty() && t.first[size_t(n)] != 0;
    if (topic < 0 || topic >= t.topics) fail_input("trace: token {} has topic {} of {}", n, topic, t.topics);
    tokens[size_t(topic)] += 1, firsts[size_t(topic)] += first;
    for (int k = 0; k < t.slots; ++k) {
      const size_t at = size_t((n * t.layers + layer) * t.slots + k);
      const int expert = t.experts[at];
      const double gate = double(t.gates[at]);
      if (expert == -1) continue;
      if (expert < 0 || expert >= t.n_experts || !(gate >= 0) || !std::isfinite(gate))
        fail_input("trace: token {} of layer {} has expert {} of {} with gate {}", n, layer, expert, t.n_experts,
                   gate);
      reading.all(topic, expert) += gate;
      if (first) reading.cls(topic, expert) += gate;
      reading.loads[size_t(expert)] += gate;
    }
  }
  for (int c = 0; c < t.topics; ++c)
    for (int e = 0; e < t.n_experts; ++e) {
      reading.all(c, e) /= std::max(tokens[size_t(c)], 1.0);
      reading.cls(c, e) /= std::max(firsts[size_t(c)], 1.0);
    }
  const double total = std::accumulate(reading.loads.begin(), reading.loads.end(), 0.0);
  if (!(total > 0)) fail_input("trace: no token of layer {} has an expert", layer);
  for (double& load : reading.loads) load /= total;
  return reading;
}

LayerMetrics layer_metrics(const RoutingReading& reading) {
  LayerMetrics metrics;
  for (const MetricRow* row : metric_rows(Stage::routing)) metrics[row->name] = read(*row, reading);
  return metrics;
}

LayerMetrics layer_metrics(const TokenTrace& trace, int layer) {
  LayerMetrics metrics = layer_metrics(reading_of(trace, layer));
  for (const MetricRow* row : metric_rows(Stage::routing))
    if (const auto* tokens = std::get_if<FromTrace>(&row->read)) metrics[row->name] = (*tokens)(trace, layer);
  return metrics;
}

LayerMetrics layer_metrics(const Matrix& all, const Matrix& cls, std::vector<double> loads) {
  CHECK(all.rows == cls.rows && all.cols == cls.cols,
        "layer metrics: utilisation is [{}, {}], its CLS view [{}, {}]", all.rows, all.cols, cls.rows, cls.cols);
  if (loads.empty()) loads = topic_mean_loads(all);
  CHECK(int(loads.size()) == all.cols, "layer metrics: {} loads for {} experts", loads.size(), all.cols);
  const double total = std::accumulate(loads.begin(), loads.end(), 0.0);
  CHECK(total > 0, "layer metrics: the loads sum to {}", total);
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
