#include "experiments/report/statistics.h"

#include <algorithm>
#include <boost/math/distributions/fisher_f.hpp>
#include <boost/math/distributions/non_central_t.hpp>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <numeric>

#include "engine/core/check.h"
#include "engine/core/random/rng.h"

namespace glia::statistics {
namespace {

constexpr double kLevel = 0.95;

double mean_of(const Sample& x) { return std::accumulate(x.begin(), x.end(), 0.0) / double(x.size()); }

// A spread that is only the rounding of the mean is none: equal accuracies must not give p = 1e-300.
bool varies(double variance, double scale) { return std::sqrt(variance) > 1e-12 * std::abs(scale); }

double variance_of(const Sample& x) {  // ddof = 1
  const double mean = mean_of(x);
  double squares = 0;
  for (double value : x) squares += (value - mean) * (value - mean);
  const double variance = squares / double(x.size() - 1);
  return varies(variance, mean) ? variance : 0;
}

// What Welch's test, contrasts and the tests of equivalence stand on; df by Satterthwaite.
struct WelchScale {
  double difference, se, df;
};
std::optional<WelchScale> welch_scale(const std::vector<Term>& terms) {
  double difference = 0, variance = 0, squares = 0, largest = 0;
  for (const auto& [weight, values] : terms) {
    if (values->size() < 2) return {};
    const double mean = mean_of(*values), v = weight * weight * variance_of(*values) / double(values->size());
    difference += weight * mean;
    variance += v;
    squares += v * v / double(values->size() - 1);
    largest = std::max(largest, std::abs(weight * mean));
  }
  if (!varies(variance, largest)) return {};
  return WelchScale{difference, std::sqrt(variance), variance * variance / squares};
}
std::optional<WelchScale> welch_scale(const Sample& x, const Sample& y) { return welch_scale({{1, &x}, {-1, &y}}); }

// The indices of the p values that are there, by ascending p.
std::vector<size_t> ascending(const std::vector<std::optional<double>>& p) {
  std::vector<size_t> order;
  for (size_t i = 0; i < p.size(); ++i)
    if (p[i]) order.push_back(i);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return *p[a] < *p[b]; });
  return order;
}

double two_sided(double t, double df) {
  return 2 * boost::math::cdf(boost::math::complement(boost::math::students_t(df), std::abs(t)));
}

TTest t_test(double difference, double se, double df) {
  TTest test;
  test.t = difference / se;
  test.df = df;
  test.p = two_sided(test.t, df);
  const double half = t_quantile(kLevel, df) * se;
  test.ci_low = difference - half;
  test.ci_high = difference + half;
  return test;
}

// Ranks from 1; equal values share the mean of theirs.
Sample ranks(const Sample& x) {
  std::vector<size_t> order(x.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::sort(order, {}, [&](size_t i) { return x[i]; });
  Sample ranks(x.size());
  for (size_t first = 0, end = 0; first < order.size(); first = end) {
    while (end < order.size() && x[order[end]] == x[order[first]]) ++end;
    for (size_t i = first; i < end; ++i) ranks[order[i]] = double(first + 1 + end) / 2;
  }
  return ranks;
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
    e.ci_low = *e.mean - half_interval(e);
    e.ci_high = *e.mean + half_interval(e);
  }
  return e;
}

double median(Sample x) {
  std::ranges::nth_element(x, x.begin() + std::ssize(x) / 2);
  return x[x.size() / 2];
}

double half_interval(const Estimate& e) { return t_quantile(kLevel, e.n - 1) * *e.se; }

std::optional<TTest> contrast(const std::vector<Term>& terms) {
  const auto w = welch_scale(terms);
  if (!w) return {};
  return t_test(w->difference, w->se, w->df);
}

std::optional<TTest> welch(const Sample& x, const Sample& y) {
  const auto w = welch_scale(x, y);
  if (!w) return {};
  return t_test(w->difference, w->se, w->df);
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

std::optional<FTest> block_f_test(const std::vector<Sample>& rows) {
  const size_t n = rows.size(), blocks = rows.empty() ? 0 : rows[0].size();
  if (n < 2 || blocks < 2) return {};
  Sample row_means, block_means(blocks, 0.0);
  for (const Sample& row : rows) {
    CHECK(row.size() == blocks, "F test: {} blocks in one row, {} in another", blocks, row.size());
    row_means.push_back(mean_of(row));
    for (size_t b = 0; b < blocks; ++b) block_means[b] += row[b] / double(n);
  }
  const double mean = mean_of(row_means);
  double between = 0, rest = 0;
  for (size_t i = 0; i < n; ++i) {
    between += double(blocks) * (row_means[i] - mean) * (row_means[i] - mean);
    for (size_t b = 0; b < blocks; ++b) {
      const double left = rows[i][b] - row_means[i] - block_means[b] + mean;
      rest += left * left;
    }
  }
  FTest test;
  test.df = double(n) - 1, test.rest_df = test.df * double(blocks - 1);
  if (!varies(rest / test.rest_df, mean)) return {};
  test.f = between / test.df / (rest / test.rest_df);
  test.p = boost::math::cdf(boost::math::complement(boost::math::fisher_f(test.df, test.rest_df), test.f));
  return test;
}

std::vector<std::optional<double>> holm(const std::vector<std::optional<double>>& p) {
  const std::vector<size_t> order = ascending(p);
  std::vector<std::optional<double>> corrected(p.size());
  double so_far = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    so_far = std::max(so_far, std::min(1.0, *p[order[i]] * double(order.size() - i)));
    corrected[order[i]] = so_far;
  }
  return corrected;
}

std::vector<std::optional<double>> benjamini_hochberg(const std::vector<std::optional<double>>& p) {
  const std::vector<size_t> order = ascending(p);
  std::vector<std::optional<double>> corrected(p.size());
  double so_far = 1;
  for (size_t i = order.size(); i-- > 0;) {
    so_far = std::min(so_far, *p[order[i]] * double(order.size()) / double(i + 1));
    corrected[order[i]] = so_far;
  }
  return corrected;
}

std::optional<Equivalence> equivalence(const Sample& x, const Sample& y, double margin) {
  CHECK(margin > 0, "equivalence: wants a margin above 0, got {}", margin);
  const auto w = welch_scale(x, y);
  if (!w) return {};
  const boost::math::students_t distribution(w->df);
  const double above = boost::math::cdf(boost::math::complement(distribution, (w->difference + margin) / w->se));
  const double below = boost::math::cdf(distribution, (w->difference - margin) / w->se);
  const double half = t_quantile(0.9, w->df) * w->se;
  return Equivalence{std::max(above, below), w->difference - half, w->difference + half};
}

double power(int n, double d) {
  CHECK(n >= 2, "power: wants two values a sample or more, got {}", n);
  const double df = 2.0 * n - 2, critical = t_quantile(0.95, df), shift = std::abs(d) * std::sqrt(n / 2.0);
  if (shift > 30) return 1;  // beyond what the series of the noncentral distribution is good for, and certain
  if (shift == 0) return 0.05;
  const boost::math::non_central_t distribution(df, shift);
  return boost::math::cdf(boost::math::complement(distribution, critical)) +
         boost::math::cdf(distribution, -critical);
}

std::optional<int> values_needed(double d, double wanted, int most) {
  int low = 2, high = most;  // power grows with n
  if (power(most, d) < wanted) return {};
  while (low < high) {
    const int middle = (low + high) / 2;
    if (power(middle, d) >= wanted) high = middle;
    else low = middle + 1;
  }
  return low;
}

std::optional<Interval> bootstrap_mean(const Sample& values, int samples, uint64_t seed) {
  if (values.size() < 2) return {};
  const int64_t n = int64_t(values.size());
  std::vector<double> means(static_cast<size_t>(samples));
  for (int s = 0; s < samples; ++s) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i)
      sum += values[size_t(random_below(n, seed, purpose::kShuffle, uint32_t(s), uint64_t(i)))];
    means[size_t(s)] = sum / double(n);
  }
  std::sort(means.begin(), means.end());
  const auto at = [&](double share) { return means[size_t(share * double(samples - 1) + 0.5)]; };
  return Interval{at(0.025), at(0.975)};
}

std::optional<double> cohen_d(const Sample& x, const Sample& y) {
  if (x.size() < 2 || y.size() < 2) return {};
  const double n = double(x.size()), m = double(y.size());
  const double pooled = ((n - 1) * variance_of(x) + (m - 1) * variance_of(y)) / (n + m - 2);
  if (!varies(pooled, std::max(std::abs(mean_of(x)), std::abs(mean_of(y))))) return {};
  return (mean_of(x) - mean_of(y)) / std::sqrt(pooled);
}

std::optional<Correlation> spearman(const Sample& x, const Sample& y) {
  CHECK(x.size() == y.size(), "rank correlation: {} values against {}", x.size(), y.size());
  if (x.size() < 3) return {};
  const Sample a = ranks(x), b = ranks(y);
  const double variances = variance_of(a) * variance_of(b), mean = mean_of(a);
  if (variances == 0) return {};
  double products = 0;
  for (size_t i = 0; i < a.size(); ++i) products += (a[i] - mean) * (b[i] - mean);
  const double df = double(x.size()) - 2;
  Correlation c;
  c.rho = std::clamp(products / double(x.size() - 1) / std::sqrt(variances), -1.0, 1.0);
  const double rest = 1 - c.rho * c.rho;
  c.p = rest > 1e-12 ? two_sided(c.rho * std::sqrt(df / rest), df) : 0;
  return c;
}

}  // namespace glia::statistics
