#include "experiments/report/of_runs/rows_table.h"

#include <fmt/format.h>

#include <map>

#include "engine/core/check.h"
#include "experiments/records/predictions.h"

namespace glia::results {
namespace {

// For each test row the share of a configuration's seeds that get it right.
struct Right {
  std::vector<double> share;
  int seeds = 0;
  std::vector<int32_t> labels;
};

void add(Right& right, const Predictions& p, const std::string& folder) {
  if (right.seeds == 0) right.labels = p.labels, right.share.assign(p.labels.size(), 0.0);
  if (right.labels != p.labels)
    fail_input("{}/predictions.csv: expected the {} test rows of the other runs, got others", folder,
               right.labels.size());
  ++right.seeds;
  for (size_t i = 0; i < p.labels.size(); ++i)
    right.share[i] += ((p.predicted[i] == p.labels[i]) - right.share[i]) / right.seeds;
}

std::string points(const std::optional<statistics::Interval>& i, const char* format) {
  return i ? fmt::format(fmt::runtime(format), 100 * i->low) + "…" +
                 fmt::format(fmt::runtime(format), 100 * i->high)
           : kNotAvailable;
}

double mean(const std::vector<double>& values) { return *statistics::estimate(values).mean; }

}  // namespace

Table test_rows_table(const Summary& s, const Listing& listing) {
  const std::string& baseline = s.study.accuracy_baseline();
  std::map<std::string, Right> configs;
  for (const Run& run : listing.runs)
    if (const auto p = read_predictions(run.folder)) add(configs[run.config.config], *p, run.folder);
  Table t;
  t.title = "Intervals over test rows";
  t.header = {"configuration", "seeds", "accuracy", "95 % interval", "Δ " + baseline, "95 % interval of Δ"};
  const auto base = configs.find(baseline);
  for (const ConfigSummary& c : s.configs) {
    const auto it = configs.find(c.config);
    if (it == configs.end() || it->second.share.empty()) continue;
    const Right& right = it->second;
    t.rows.push_back({c.config, std::to_string(right.seeds), fmt::format("{:.2f}", 100 * mean(right.share)),
                      points(statistics::bootstrap_mean(right.share), "{:.2f}")});
    if (base == configs.end() || base == it) {
      t.rows.back().insert(t.rows.back().end(), {"–", "–"});
      continue;
    }
    if (base->second.labels != right.labels)
      fail_input("{}: its runs have other test rows than those of {}", c.config, baseline);
    std::vector<double> differences;
    for (size_t i = 0; i < right.share.size(); ++i) differences.push_back(right.share[i] - base->second.share[i]);
    t.rows.back().push_back(fmt::format("{:+.2f}", 100 * mean(differences)));
    t.rows.back().push_back(points(statistics::bootstrap_mean(differences), "{:+.2f}"));
  }
  t.note =
      "points; percentile intervals over 2,000 bootstrap samples of the test rows, paired by row, for the seeds that there "
      "are: how much another test set of this size would change, where intervals over seeds say how much another training "
      "would.";
  return t;
}

}  // namespace glia::results
