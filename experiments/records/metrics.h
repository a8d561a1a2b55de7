// The metric table: one row a metric. The rows drive metrics.jsonl, eval.json, TensorBoard, the progress line, the
// summary with its tests, the tables and the report; to add a metric is to add a row in metrics.cpp.
//
// Losses need no row: whatever named parts a step's loss has are written, drawn and printed under their own names; a
// row gives such a name a label and a place.
#pragma once
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "experiments/records/json_fields.h"
#include "experiments/records/routing/routing_counts.h"

namespace glia::results {

enum class Stage {
  step,        // a logged training step: from its named values
  evaluation,  // one pass over a split: from its named values
  routing,     // the same pass: one value a MoE layer, read from its routing
  analysis,    // of a finished run, or of each layer: from its analysis.json (tools/analyse)
};
enum class Form { scalar, vector, matrix };  // a curve is a matrix of two columns, x and y
enum class Better { neither, lower, higher };
// How several values become one. inputs: they do not; what they are read from is added up first (the utilisation sums
// of ranks or of parts of a split), and the metric is read once.
enum class Over { mean, sum, largest, inputs };

// A scalar has one value (none: n/a), a vector a row of them, a matrix rows × columns.
struct MetricValue {
  std::vector<double> values;
  int columns = 0;  // of a matrix
  MetricValue() = default;
  MetricValue(double scalar) : values{scalar} {}
  MetricValue(std::vector<double> vector) : values(std::move(vector)) {}
  bool operator==(const MetricValue&) const = default;
};

// What most metrics of a layer read: utilisation U and loads, whoever counted them.
struct RoutingReading {
  Matrix all, cls;  // [C, E] mean gates by topic: over all tokens, over first rows; rows of zeros: no token
  std::vector<double> loads;  // [E] shares of all gate mass, sum 1
};
RoutingReading reading_of(const LayerCounts& counts);
// Throws when the trace's sizes or ids do not fit each other.
RoutingReading reading_of(const TokenTrace& trace, int layer);

using FromUtilisation = std::optional<double> (*)(const Matrix& u);
using FromLoads = MetricValue (*)(const std::vector<double>& loads);
using FromCounts = MetricValue (*)(const LayerCounts& counts);  // n/a where nobody saw the tokens

struct MetricRow {
  const char* name;   // key in JSON, tag in TensorBoard
  const char* label;  // heading of a column, word of the progress line
  const char* help;   // with unit and range, for the note below a table
  Stage stage;
  int digits = 4;  // printed decimals
  Better better = Better::neither;
  double least = -std::numeric_limits<double>::infinity(), most = std::numeric_limits<double>::infinity();
  Over layers = Over::mean, ranks = Over::inputs;  // over seeds all are averaged
  // Only for Stage::routing: what it is read from; `first_rows`: the CLS view of the utilisation.
  std::variant<std::monostate, FromUtilisation, FromLoads, FromCounts> read = {};
  bool first_rows = false;
  Form form = Form::scalar;
  bool whole = false;  // a count: an integer in JSON
  // Place among a layer's keys in metrics.jsonl, from 1, newer rows behind the older; TensorBoard has the same. 0: neither.
  int logged = 0;
  bool analysed = false;  // of Stage::routing: counted token by token, so that analysis.json alone has it
  bool column = false;    // of every progress line
  bool compared = false;  // with the study's baselines, over seeds
  double (*even)(int n_experts) = nullptr;  // its value when all experts are used alike whatever the topic
  // Likewise, where it takes more to know: the number of experts a token has, say.
  double (*chance)(const LayerCounts& counts) = nullptr;
};

inline constexpr const char* kAccuracyWithoutNearCopies = "accuracy_without_near_copies";

const std::vector<MetricRow>& metric_rows();
std::vector<MetricRow> routing_rows();  // those of Stage::routing; metric_rows() has them
const MetricRow* metric_row(Stage stage, const std::string& name);  // nullptr: a name without a row
std::vector<const MetricRow*> metric_rows(Stage stage);
// Of the given values; n/a when one is.
std::optional<double> combined(Over how, std::span<const double> values);

// Numbers by name, in the order in which they are written.
class NamedValues {
 public:
  NamedValues() = default;
  NamedValues(std::initializer_list<std::pair<std::string, double>> values) : values_(values) {}
  void set(const std::string& name, double value);
  bool contains(const std::string& name) const { return find(name) != nullptr; }
  double get(const std::string& name, double otherwise = std::numeric_limits<double>::quiet_NaN()) const;
  auto begin() const { return values_.begin(); }
  auto end() const { return values_.end(); }

 private:
  const double* find(const std::string& name) const;
  std::vector<std::pair<std::string, double>> values_;
};

// One layer's value of every row of Stage::routing.
class LayerMetrics {
 public:
  LayerMetrics();
  const MetricValue& operator[](const std::string& name) const;
  MetricValue& operator[](const std::string& name);
  double scalar(const std::string& name) const;                                 // NaN: n/a
  const std::vector<double>& loads() const { return (*this)["loads"].values; }  // [E]

 private:
  size_t place(const std::string& name) const;
  std::vector<MetricValue> values_;  // in the order of metric_rows(Stage::routing)
};

LayerMetrics layer_metrics(const RoutingReading& reading);
LayerMetrics layer_metrics(const LayerCounts& counts);  // those that read tokens too
LayerMetrics layer_metrics(const TokenTrace& trace, int layer);
// `loads` may have any positive scale; empty: the column means of `all`.
LayerMetrics layer_metrics(const Matrix& all, const Matrix& cls, std::vector<double> loads = {});

// All rows, or those that metrics.jsonl keeps, each in its order. Reading takes files without newer rows: what the
// loads tell is computed, the rest is n/a.
Json to_json(const LayerMetrics& layer, bool logged_only);
LayerMetrics layer_metrics_from(const Json& json, const std::string& from);

}  // namespace glia::results
