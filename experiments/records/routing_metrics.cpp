#include "experiments/records/routing_metrics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/core/check.h"

namespace glia::results {
namespace {

double plogp(double p) { return p > 0 ? p * std::log2(p) : 0; }  // the limit at 0 is 0

}  // namespace

double specialisation(const Matrix& u) {
  CHECK(u.rows > 0 && u.cols > 0, "specialisation: wants a [topics, experts] matrix, got [{}, {}]", u.rows, u.cols);
  double sum = 0;
  for (int e = 0; e < u.cols; ++e) {
    double mean = 0, squares = 0;
    for (int c = 0; c < u.rows; ++c) mean += u(c, e) / u.rows;
    for (int c = 0; c < u.rows; ++c) squares += (u(c, e) - mean) * (u(c, e) - mean);
    sum += std::sqrt(squares / u.rows);
  }
  return sum / u.cols;
}

double mutual_information_bits(const Matrix& u) {
  CHECK(u.rows > 0 && u.cols > 0, "mutual information: wants a [topics, experts] matrix, got [{}, {}]", u.rows,
        u.cols);
  // A row is P(expert | topic): rows of a router whose gates do not sum to 1 are scaled so that they do.
  Matrix p = u;
  int topics = 0;
  for (int c = 0; c < u.rows; ++c) {
    double sum = 0;
    for (int e = 0; e < u.cols; ++e) sum += u(c, e);
    for (int e = 0; e < u.cols; ++e) p(c, e) = sum > 0 ? u(c, e) / sum : 0;
    topics += sum > 0;
  }
  double bits = load_entropy_bits(topic_mean_loads(p));
  for (double value : p.values) bits += plogp(value) / std::max(topics, 1);
  return std::max(bits, 0.0);  // rounding may leave −1e-17
}

double load_entropy_bits(const std::vector<double>& loads) {
  const double total = std::accumulate(loads.begin(), loads.end(), 0.0);
  double bits = 0;
  if (total > 0)
    for (double load : loads) bits -= plogp(load / total);
  return std::max(bits, 0.0);
}

double load_cv(const std::vector<double>& loads) {
  const double n = double(loads.size());
  const double mean = std::accumulate(loads.begin(), loads.end(), 0.0) / n;
  if (loads.size() < 2 || mean <= 0) return 0;
  double squares = 0;
  for (double load : loads) squares += (load - mean) * (load - mean);
  return std::sqrt(squares / (n - 1)) / mean;
}

int dead_experts(const std::vector<double>& loads) {
  const double total = std::accumulate(loads.begin(), loads.end(), 0.0);
  const double floor = 0.01 * total / double(loads.size());
  return int(std::count_if(loads.begin(), loads.end(), [&](double load) { return load < floor || total <= 0; }));
}

std::vector<double> topic_mean_loads(const Matrix& u) {
  std::vector<double> loads(size_t(u.cols), 0.0);
  for (int c = 0; c < u.rows; ++c)
    for (int e = 0; e < u.cols; ++e) loads[size_t(e)] += u(c, e) / u.rows;
  return loads;
}

LayerMetrics layer_metrics(const Matrix& all, const Matrix& cls, std::vector<double> loads) {
  CHECK(all.rows == cls.rows && all.cols == cls.cols,
        "layer metrics: utilisation is [{}, {}], its CLS view [{}, {}]", all.rows, all.cols, cls.rows, cls.cols);
  if (loads.empty()) loads = topic_mean_loads(all);
  CHECK(int(loads.size()) == all.cols, "layer metrics: {} loads for {} experts", loads.size(), all.cols);
  const double total = std::accumulate(loads.begin(), loads.end(), 0.0);
  CHECK(total > 0, "layer metrics: the loads sum to {}", total);
  for (double& load : loads) load /= total;
  LayerMetrics m;
  m.specialisation = specialisation(all);
  m.specialisation_cls = specialisation(cls);
  m.mutual_information_bits = mutual_information_bits(all);
  m.mutual_information_bits_cls = mutual_information_bits(cls);
  m.entropy_bits = load_entropy_bits(loads);
  m.load_cv = load_cv(loads);
  m.dead_experts = dead_experts(loads);
  m.largest_share = *std::max_element(loads.begin(), loads.end());
  m.loads = std::move(loads);
  return m;
}

}  // namespace glia::results
