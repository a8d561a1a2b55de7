#include "experiments/report/significance.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace glia::results {
namespace {

constexpr double kSignificant = 0.05, kPower = 0.8;
constexpr int kMostSeeds = 1000;

struct Line {
  const ConfigSummary* config;
  std::optional<double> welch;
  std::optional<statistics::Equivalence> equivalence;
};

bool enough(const Metric* m) { return m && m->values.size() >= size_t(kLeastSeeds); }

// What an equivalence and a difference say together; both may hold, of a small difference that is certain.
std::string verdict(const std::optional<double>& different, const statistics::Equivalence& e) {
  const bool differs = different && *different < kSignificant, equivalent = e.p < kSignificant;
  return differs && equivalent ? "differs, within the margin"
         : differs             ? "differs"
         : equivalent          ? "equivalent"
                               : "undecided";
}

std::string points(double share, int digits) { return fmt::format("{:+.{}f}", 100 * share, digits); }

std::string too_few(const Table& t) {
  return t.rows.empty()
             ? fmt::format(" No rows: fewer than {} seeds, or seeds that do not differ, give no test.", kLeastSeeds)
             : "";
}

}  // namespace

Table significance_table(const Summary& s) {
  const double margin = s.margin;
  const std::string& baseline = s.study.accuracy_baseline();
  const ConfigSummary* base = s.find(baseline);
  std::vector<Line> lines;
  for (const ConfigSummary& c : s.configs) {
    const Comparison* vs = c.against("accuracy", baseline);
    if (!vs || !base || !enough(c.find("accuracy")) || !enough(base->find("accuracy"))) continue;
    lines.push_back({&c, vs->welch_p,
                     statistics::equivalence(c.find("accuracy")->values, base->find("accuracy")->values, margin)});
  }
  std::vector<std::optional<double>> p;
  for (const Line& line : lines) p.push_back(line.welch);
  const auto holm = statistics::holm(p), found = statistics::benjamini_hochberg(p);
  Table t;
  t.title = "Differences and equivalence";
  t.header = {"configuration", "Δ points", "p Holm", "p FDR", "p equivalence", "90 % interval", "verdict"};
  for (size_t i = 0; i < lines.size(); ++i) {
    const auto& e = lines[i].equivalence;
    t.rows.push_back(
        {lines[i].config->config, points(*lines[i].config->against("accuracy", baseline)->difference, 2),
         format_p(holm[i]), format_p(found[i]), format_p(e ? std::optional(e->p) : std::nullopt),
         e ? points(std::max(e->ci_low, -1.0), 2) + "…" + points(std::min(e->ci_high, 1.0), 2) : kNotAvailable,
         e ? verdict(holm[i], *e) : kNotAvailable});
  }
  t.note = fmt::format(
      "test accuracy against {}, Welch's tests over seeds. FDR: Benjamini and Hochberg's correction, which bounds the share "
      "of false discoveries, where Holm's bounds the chance of any. Equivalence: two one-sided tests of a difference below "
      "{:g} points; the interval then lies inside that margin. Verdict at 0.05: differs (Holm), equivalent, or neither.{}",
      baseline, 100 * margin, too_few(t));
  return t;
}

Table power_table(const Summary& s) {
  const double margin = s.margin;
  static constexpr double kDifferences[] = {0.001, 0.002, 0.005, 0.01};
  Table t;
  t.title = "Seeds that a difference takes";
  t.header = {"configuration", "deviation", "chance now"};
  for (const double d : kDifferences) t.header.push_back(fmt::format("{:g} points", 100 * d));
  for (const ConfigSummary& c : s.configs) {
    const Metric* m = c.find("accuracy");
    if (!enough(m) || !m->estimate.sd || !(*m->estimate.sd > 0)) continue;
    const double sd = *m->estimate.sd;
    t.rows.push_back({c.config, fmt::format("{:.4f}", sd),
                      fmt::format("{:.2f}", statistics::power(int(m->values.size()), margin / sd))});
    for (const double d : kDifferences) {
      const auto n = statistics::values_needed(d / sd, kPower, kMostSeeds);
      t.rows.back().push_back(n ? std::to_string(*n) : fmt::format(">{}", kMostSeeds));
    }
  }
  t.note = fmt::format(
      "deviation: of the accuracy over seeds; chance now: of seeing a difference of {:g} points with the seeds that there "
      "are; then the seeds a configuration with which a t-test at 0.05 sees a difference of so many points in {:g} % of all "
      "studies, when both configurations vary as this one does.{}",
      100 * margin, 100 * kPower, too_few(t));
  return t;
}

}  // namespace glia::results
