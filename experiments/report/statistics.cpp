#include "experiments/report/statistics.h"

#include <algorithm>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <numeric>

#include "engine/core/check.h"

namespace glia::statistics {
namespace {

constexpr double kLevel = 0.95;

double mean_of(const Sample& x) { return std::accumulate(x.begin(), x.end(), 0.0) / double(x.size()); }

double variance_of(const Sample& x) {  // ddof = 1
  const double mean = mean_of(x);
  double squares = 0;
  for (double value : x) squares += (value - mean) * (value - mean);
  return squares / double(x.size() - 1);
}

// A spread that is only the rounding of the mean is none: equal accuracies must not give p = 1e-300.
bool varies(double variance, double scale) { return std::sqrt(variance) > 1e-12 * std::abs(scale); }

TTest t_test(double difference, double se, double df) {
  const boost::math::students_t distribution(df);
  TTest test;
  test.t = difference / se;
  test.df = df;
  test.p = 2 * boost::math::cdf(boost::math::complement(distribution, std::abs(test.t)));
  const double half = t_quantile(kLevel, df) * se;
  test.ci_low = difference - half;
  test.ci_high = difference + half;
  return test;
}

}  // namespace

double t_quantile(double level, double df) {
  return boost::math::quantile(boost::math::complement(boost::math::students_t(df), (1 - level) / 2));
}

Estimate estimate(const Sample& x) {
  Estimate e;
  e.n = int(x.size());
  if (e.n >= 1) e.mean = mean_of(x);
  if (e.n >= 2) {
    e.sd = std::sqrt(variance_of(x));
    e.se = *e.sd / std::sqrt(double(e.n));
    const double half = t_quantile(kLevel, e.n - 1) * *e.se;
    e.ci_low = *e.mean - half;
    e.ci_high = *e.mean + half;
  }
  return e;
}

std::optional<TTest> welch(const Sample& x, const Sample& y) {
  if (x.size() < 2 || y.size() < 2) return {};
  const double n = double(x.size()), m = double(y.size());
  const double vx = variance_of(x) / n, vy = variance_of(y) / m;
  const double difference = mean_of(x) - mean_of(y);
  if (!varies(vx + vy, std::max(std::abs(mean_of(x)), std::abs(mean_of(y))))) return {};
  const double df = (vx + vy) * (vx + vy) / (vx * vx / (n - 1) + vy * vy / (m - 1));
  return t_test(difference, std::sqrt(vx + vy), df);
}

std::optional<TTest> paired(const Sample& x, const Sample& y) {
  CHECK(x.size() == y.size(), "paired test: {} values against {}", x.size(), y.size());
  if (x.size() < 2) return {};
  Sample differences;
  for (size_t i = 0; i < x.size(); ++i) differences.push_back(x[i] - y[i]);
  const double variance = variance_of(differences) / double(x.size());
  if (!varies(variance, std::max(std::abs(mean_of(x)), std::abs(mean_of(y))))) return {};
  return t_test(mean_of(differences), std::sqrt(variance), double(x.size()) - 1);
}

std::vector<std::optional<double>> holm(const std::vector<std::optional<double>>& p) {
  std::vector<size_t> order;
  for (size_t i = 0; i < p.size(); ++i)
    if (p[i]) order.push_back(i);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return *p[a] < *p[b]; });
  std::vector<std::optional<double>> corrected(p.size());
  double so_far = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    so_far = std::max(so_far, std::min(1.0, *p[order[i]] * double(order.size() - i)));
    corrected[order[i]] = so_far;
  }
  return corrected;
}

std::optional<double> cohen_d(const Sample& x, const Sample& y) {
  if (x.size() < 2 || y.size() < 2) return {};
  const double n = double(x.size()), m = double(y.size());
  const double pooled = ((n - 1) * variance_of(x) + (m - 1) * variance_of(y)) / (n + m - 2);
  if (!varies(pooled, std::max(std::abs(mean_of(x)), std::abs(mean_of(y))))) return {};
  return (mean_of(x) - mean_of(y)) / std::sqrt(pooled);
}

}  // namespace glia::statistics
