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
  int experts = 0;                             // 0: dense
  std::vector<int> seeds, failed, unfinished;  // seed indices of the finished runs, and of the others
  // The evaluation's named values; per layer "specialisation.1" … (layer_metric) for each scalar row of the metric
  // table; of runs that were analysed what of_runs/analysis_values.h reads. A value that is n/a for a seed is left out.
  std::map<std::string, Metric> metrics;

  const Metric* find(const std::string& name) const;  // nullptr when no finished run has it
  const Comparison* against(const std::string& metric, const std::string& baseline) const;
};

struct RunLine {
  std::string config;
  int seed_index = 0;
  RunState state = RunState::unfinished;
  std::string reason;  // of a failure
  std::optional<double> accuracy;
  // From the run's timing.json: no part of summary.json, but of the timing.json beside it.
  std::optional<double> seconds, peak_bytes, step_ms, parameters;
};

struct Summary {
  std::string out;          // the folder it was read from or made of
  Study study;              // order, baselines, published numbers, colours
  RunConfig common;         // of the first run: protocol, preset, data, train, options, commit, device
  int layers = 0;           // of the MoE runs; 0 when there are none
  int64_t near_copies = 0;  // of the test rows; 0 too where nobody looked
  std::vector<int> seeds;   // union over configurations
  std::vector<std::string> warnings;
  std::vector<ConfigSummary> configs;  // in the study's order
  std::vector<RunLine> runs;
  // Accuracies that differ by less are of no consequence (significance.h): the reader's choice, no part of summary.json.
  double margin = 0.005;
  double seconds = 0;  // all runs together, from their timing.json; no part of summary.json

  const ConfigSummary* find(const std::string& config) const;
  const Published* published(const std::string& config, const std::string& metric) const {
    return any_published() ? study.published(config, metric, common.data.name, layers) : nullptr;
  }
  // A row of its own predicts: of a task that tells words no token's choices stand out.
  bool reads_cls() const { return common.task() == "classification"; }
  bool any_published() const {
    return study.published_data == common.data.name && common.task() == "classification";
  }
};

inline constexpr int kLeastSeeds =
    3;  // fewer give no interval and no test: two values say next to nothing of a spread
inline constexpr const char* kNotAvailable = "n/a";

// Per layer what the report compares: specialisation of the mean gates, or, of a router whose gates do not sum to 1, of each token's
// gates over their sum ("specialisation_mass"): else a router would specialise by what its gates happen to sum to.
constexpr const char* kSpecialisation = "specialisation_share";
bool any_mass(const Summary& summary);  // whether they differ anywhere

std::string layer_metric(const std::string& name, int layer);  // ("specialisation", 4) → "specialisation.4"

// Accuracy is compared with the study's accuracy baselines, each layer's compared metrics (metrics.h) with its routing
// baselines. Intervals stay inside a metric's range. A Holm family is one metric, one baseline and one test over the configurations. Throws on mixed protocols
// (require_comparable) and when there is no readable run.
Summary summarise(const Listing& listing);
Summary summarise(const std::string& out);

Json to_json(const Summary& summary);
Summary summary_from(const Json& json, const std::string& from);
Summary read_summary(const std::string& path);  // summary.json, or the folder that has it

std::string summary_csv(const Summary& summary);  // a line a configuration, metric and baseline

// <out>/summary.json, <out>/summary.csv and, apart since it differs from time to time, <out>/timing.json.
void write_summary(const std::string& out, const Summary& summary);

}  // namespace glia::results
