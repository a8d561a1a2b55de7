#include "experiments/report/compare.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/core/check.h"

namespace glia::results {
namespace {

std::string mean_of(const Metric* m) {
  if (!m || !m->estimate.mean) return kNotAvailable;
  return fmt::format("{:.4f} ±{}", *m->estimate.mean,
                     m->estimate.se ? fmt::format("{:.4f}", *m->estimate.se) : kNotAvailable);
}

// value in A, in B, the difference B − A, its p
void append(std::vector<std::string>& row, const Metric* a, const Metric* b) {
  row.push_back(mean_of(a));
  row.push_back(mean_of(b));
  const bool both = a && b;
  row.push_back(both ? fmt::format("{:+.4f}", *b->estimate.mean - *a->estimate.mean) : kNotAvailable);
  std::optional<double> p;
  if (both && std::min(a->values.size(), b->values.size()) >= size_t(kLeastSeeds))
    if (const auto test = statistics::welch(b->values, a->values)) p = test->p;
  row.push_back(format_p(p));
}

}  // namespace

Table provenance_difference(const Summary& a, const Summary& b) {
  Table t;
  t.title = "What differs";
  t.header = {"", "A: " + a.out, "B: " + b.out};
  const auto in_a = provenance(a), in_b = provenance(b);
  for (size_t i = 0; i < in_a.size(); ++i)
    if (in_a[i].second != in_b[i].second) t.rows.push_back({in_a[i].first, in_a[i].second, in_b[i].second});
  if (t.rows.empty()) t.rows.push_back({"nothing", "", ""});
  return t;
}

Table side_by_side(const Summary& a, const Summary& b) {
  Table t;
  t.title = "Side by side";
  t.note = "means ± standard errors over seeds, Δ = B − A, p by Welch's test, uncorrected";
  t.header = {"configuration", "accuracy A", "accuracy B", "Δ", "p", "last layer A", "last layer B", "Δ", "p"};
  for (const ConfigSummary& c : a.configs) {
    const ConfigSummary* other = b.find(c.config);
    if (!other) continue;
    t.rows.push_back({c.config});
    append(t.rows.back(), c.find("accuracy"), other->find("accuracy"));
    append(t.rows.back(), c.find(layer_metric(kSpecialisation, a.layers)),
           other->find(layer_metric(kSpecialisation, b.layers)));
  }
  if (t.rows.empty()) fail_input("{} and {}: have no configuration in common", a.out, b.out);
  return t;
}

}  // namespace glia::results
