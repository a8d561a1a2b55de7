// What all runs of a result folder say together: estimates over seeds, tests against the baselines, warnings.
// summary.json holds all of it, and everything printed, drawn or written from a summary can be made from that file
// alone.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "experiments/records/results.h"
#include "experiments/report/statistics.h"

namespace glia::results {

struct Comparison {  // of one metric of one configuration with the same metric of `baseline`
  std::string baseline;
  std::optional<double> difference, ci_low, ci_high;  // of the means, ours − baseline; Welch's 95 % interval
  std::optional<double> welch_p, welch_holm;          // over seeds as two samples
  std::optional<double> paired_p, paired_holm;        // over the seeds that both have
  std::optional<double> cohen_d;
};

struct Metric {
  std::vector<int> seeds;      // seed indices, ascending
  std::vector<double> values;  // one a seed
  statistics::Estimate estimate;
  std::vector<Comparison> vs;
};

struct ConfigSummary {
  std::string config;
  bool moe = false;
  std::vector<int> seeds, failed, unfinished;  // seed indices of the finished runs, and of the others
  // "accuracy", "loss", "validation_accuracy"; per layer "specialisation.1" … (layer_metric), as in LayerMetrics.
  std::map<std::string, Metric> metrics;

  const Metric* find(const std::string& name) const;  // nullptr when no finished run has it
  const Comparison* against(const std::string& metric, const std::string& baseline) const;
};

struct RunLine {
  std::string config;
  int seed_index = 0;
  RunState state = RunState::unfinished;
  std::string reason;  // of a failure
  std::optional<double> accuracy, seconds;
};

struct Summary {
  std::string out;
  RunConfig common;        // of the first run: protocol, preset, data, train, options, commit, device
  int layers = 0;          // of the MoE runs; 0 when there are none
  std::vector<int> seeds;  // union over configurations
  std::vector<std::string> warnings;
  std::vector<ConfigSummary> configs;  // in the order of configuration_less
  std::vector<RunLine> runs;
  double seconds = 0;  // all runs together, from their timing.json

  const ConfigSummary* find(const std::string& config) const;
};

inline constexpr const char* kDense = "dense";          // baseline of the accuracy
inline constexpr const char* kSoftmax = "softmax-moe";  // baseline of the specialisation, and of the accuracy too
inline constexpr const char* kNotAvailable = "n/a";

std::string layer_metric(const std::string& name, int layer);  // ("specialisation", 4) → "specialisation.4"

// Accuracy is compared with dense and softmax-moe, each layer's specialisation (all tokens, CLS) with softmax-moe.
// A Holm family is one metric, one baseline and one test over the configurations. Throws on mixed protocols
// (require_comparable) and when there is no readable run.
Summary summarise(const Listing& listing);
Summary summarise(const std::string& out);

Json to_json(const Summary& summary);
Summary summary_from(const Json& json, const std::string& from);
Summary read_summary(const std::string& path);  // summary.json, or the folder that has it

std::string summary_csv(const Summary& summary);  // a line a configuration, metric and baseline

// <out>/summary.json and <out>/summary.csv.
void write_summary(const std::string& out, const Summary& summary);

}  // namespace glia::results
