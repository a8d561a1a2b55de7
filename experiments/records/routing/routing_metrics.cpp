#include "experiments/records/routing/routing_metrics.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "engine/core/check.h"

namespace glia::results {
namespace {

double plogp(double p) { return p > 0 ? p * std::log2(p) : 0; }  // the limit at 0 is 0

int seen_topics(const Matrix& u) {
  int topics = 0;
  for (int c = 0; c < u.rows; ++c) topics += seen(u, c);
  return topics;
}

}  // namespace

bool seen(const Matrix& u, int topic) {
  for (int e = 0; e < u.cols; ++e)
    if (u(topic, e) > 0) return true;
  return false;
}

std::optional<double> specialisation(const Matrix& u) {
  CHECK(u.rows > 0 && u.cols > 0, "specialisation: wants a [topics, experts] matrix, got [{}, {}]", u.rows, u.cols);
  const int topics = seen_topics(u);
  if (topics < 2) return {};
  double sum = 0;
  for (int e = 0; e < u.cols; ++e) {
    double mean = 0, squares = 0;
    for (int c = 0; c < u.rows; ++c) mean += u(c, e) / topics;  // rows of zeros add nothing
    for (int c = 0; c < u.rows; ++c)
      if (seen(u, c)) squares += (u(c, e) - mean) * (u(c, e) - mean);
    sum += std::sqrt(squares / topics);
  }
  return sum / u.cols;
}

std::optional<double> mutual_information_bits(const Matrix& u) {
  CHECK(u.rows > 0 && u.cols > 0, "mutual information: wants a [topics, experts] matrix, got [{}, {}]", u.rows,
        u.cols);
  const int topics = seen_topics(u);
  if (topics < 2) return {};
  // A row is P(expert | topic): rows of a router whose gates do not sum to 1 are scaled so that they do.
  Matrix p = u;
  for (int c = 0; c < u.rows; ++c) {
    double sum = 0;
    for (int e = 0; e < u.cols; ++e) sum += u(c, e);
    for (int e = 0; e < u.cols; ++e) p(c, e) = sum > 0 ? u(c, e) / sum : 0;
  }
  double bits = load_entropy_bits(topic_mean_loads(p));
  for (double value : p.values) bits += plogp(value) / topics;
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

double max_violation(const std::vector<double>& loads) {
  const double mean = std::accumulate(loads.begin(), loads.end(), 0.0) / double(loads.size());
  return mean > 0 ? *std::max_element(loads.begin(), loads.end()) / mean - 1 : 0;
}

double gini(const std::vector<double>& loads) {
  std::vector<double> sorted = loads;
  std::sort(sorted.begin(), sorted.end());
  const double n = double(sorted.size()), total = std::accumulate(sorted.begin(), sorted.end(), 0.0);
  double sum = 0;
  for (size_t i = 0; i < sorted.size(); ++i) sum += (2 * double(i + 1) - n - 1) * sorted[i];
  return total > 0 ? sum / (n * total) : 0;
}

std::vector<double> coverage(const std::vector<double>& loads) {
  std::vector<double> sums = loads;
  std::sort(sums.begin(), sums.end(), std::greater<>());
  std::partial_sum(sums.begin(), sums.end(), sums.begin());
  for (double& sum : sums) sum /= std::max(sums.back(), 1e-300);
  return sums;
}

int dead_experts(const std::vector<double>& loads) {
  const double total = std::accumulate(loads.begin(), loads.end(), 0.0);
  const double floor = 0.01 * total / double(loads.size());
  return int(std::count_if(loads.begin(), loads.end(), [&](double load) { return load < floor || total <= 0; }));
}

std::vector<double> topic_mean_loads(const Matrix& u) {
  std::vector<double> loads(size_t(u.cols), 0.0);
  const int topics = std::max(seen_topics(u), 1);
  for (int c = 0; c < u.rows; ++c)
    for (int e = 0; e < u.cols; ++e) loads[size_t(e)] += u(c, e) / topics;
  return loads;
}

}  // namespace glia::results
