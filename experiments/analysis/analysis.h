// All that a trace tells of a model's routing, from one pass over its tokens: the metric table's rows by layer, their
// chance levels, agreement between layers, each expert's words, and how much of the topic a signature tells.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "experiments/analysis/agreement.h"
#include "experiments/analysis/signature_probe.h"
#include "experiments/records/metrics.h"

namespace glia::results {

struct FavouriteWord {
  int32_t id = 0;
  uint32_t tokens = 0;  // of the word, in the trace
  double share = 0;     // of them, those that have the expert
};

struct LayerAnalysis {
  LayerMetrics metrics;
  RoutingReading reading;                         // utilisation and loads
  Matrix together;                                // [E, E] co-activation
  std::vector<std::optional<double>> chance;      // by row of metric_rows(Stage::routing); none: has no such value
  std::vector<std::vector<FavouriteWord>> words;  // [E] by descending share; empty where ids are not known
};

struct PairAnalysis {  // of the first choices of layers a < b, from 0
  int a = 0, b = 0;
  double matched = 0, matched_chance = 0;  // chance: the same after the tokens of b were permuted
  double information = 0, information_chance = 0;
};

struct TraceAnalysis {
  std::string title, path;
  int64_t tokens = 0, sequences = 0;
  int slots = 0, n_experts = 0;
  std::vector<std::string> topics;  // [C]
  std::vector<LayerAnalysis> layers;
  std::vector<PairAnalysis> pairs;
  std::optional<Probe> probe;  // where sequences have topics

  bool has_topics() const { return topics.size() > 1; }
};

// Memory is that of the counts, whatever the trace's length: C · E + E² + V · E numbers a layer, E² a pair of layers.
TraceAnalysis analyse(const TraceFile& trace, int words_an_expert = 10);

// `words`: the name of each id, or empty: "#id".
Json to_json(const TraceAnalysis& analysis, const std::vector<std::string>& words);
Json to_json(const std::vector<LayerAgreement>& agreement);

Json rows_json(const Matrix& m);  // a list of rows

std::string word_name(const std::vector<std::string>& words, int32_t id);

}  // namespace glia::results
