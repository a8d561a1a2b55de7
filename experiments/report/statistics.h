// Statistics over seeds. A quantity that the sample is too small for (fewer than two values, no spread) is absent,
// never a made-up number: tables print it as n/a. Distributions are Boost.Math's; tested against scipy's values.
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

namespace glia::statistics {

using Sample = std::vector<double>;

struct Estimate {
  int n = 0;
  std::optional<double> mean;             // n >= 1
  std::optional<double> sd, se;           // n >= 2; ddof = 1, se = sd / √n
  std::optional<double> ci_low, ci_high;  // n >= 2; 95 %: mean ± t(0.975, n − 1) · se
};
Estimate estimate(const Sample& x);
double median(Sample x);  // of n >= 1; of an even number the upper of the two in the middle
double half_interval(
    const Estimate& e);  // of n >= 2: t(0.975, n − 1) · se, whatever bounds the interval has been held to

struct TTest {
  double t = 0, df = 0, p = 1;     // two-sided
  double ci_low = 0, ci_high = 0;  // 95 % interval of the difference of the means, x − y
};

// Welch's test of mean(x) = mean(y): variances may differ, df by Satterthwaite. Absent below two values a side, or
// when neither side varies.
std::optional<TTest> welch(const Sample& x, const Sample& y);

// Σ weight · mean(values) over samples that do not depend on each other, tested against 0 as Welch's test does, which is
// the contrast of the weights 1 and −1. Absent like welch.
struct Term {
  double weight;
  const Sample* values;
};
std::optional<TTest> contrast(const std::vector<Term>& terms);

// Paired test: x[i] and y[i] come from the same seed. Absent below two pairs or when the differences do not vary.
std::optional<TTest> paired(const Sample& x, const Sample& y);

// Whether rows differ at all, columns (seeds) being blocks that all of them have: F of the two-way analysis of variance without
// interaction. rows[i][b]: row i in block b. Absent below two of either, or without a rest.
struct FTest {
  double f = 0, df = 0, rest_df = 0, p = 1;
};
std::optional<FTest> block_f_test(const std::vector<Sample>& rows);

// Holm's step-down correction over one family: p sorted upwards times m, m − 1, …, 1, made monotone, at most 1.
// Absent entries stay absent and do not count into m.
std::vector<std::optional<double>> holm(const std::vector<std::optional<double>>& p);

// Benjamini and Hochberg's step-up correction over one family, which bounds the expected share of false discoveries: p
// sorted upwards times m / rank, made monotone from the largest down, at most 1. Absent entries as in holm().
std::vector<std::optional<double>> benjamini_hochberg(const std::vector<std::optional<double>>& p);

// Two one-sided tests (Schuirmann 1987) of |mean(x) − mean(y)| < margin: p is the larger of the two, below 0.05 the means
// are equivalent; the interval is that of 90 %, which then lies inside ±margin. Welch's variances and df.
struct Equivalence {
  double p = 1, ci_low = 0, ci_high = 0;
};
std::optional<Equivalence> equivalence(const Sample& x, const Sample& y, double margin);

// The chance that a two-sided t-test at 0.05 of two samples of n values each sees a difference of d standard deviations
// (noncentral t, df 2n − 2). n >= 2.
double power(int n, double d);
// The fewest values a sample, from 2 on, that give that chance; absent above `most`.
std::optional<int> values_needed(double d, double wanted = 0.8, int most = 1000);

// The 95 % percentile interval of the mean of `values` over `samples` bootstrap samples (Efron 1979), drawn from a fixed
// seed. Absent below two values.
struct Interval {
  double low = 0, high = 0;
};
std::optional<Interval> bootstrap_mean(const Sample& values, int samples = 2000, uint64_t seed = 1);

// Cohen's d: (mean(x) − mean(y)) / pooled standard deviation (variances weighted by n − 1). Absent like welch.
std::optional<double> cohen_d(const Sample& x, const Sample& y);

// Spearman's rank correlation, ties at their mean rank; p two-sided from Student's t with n − 2 degrees of freedom, as scipy has it.
// Absent below three pairs, or where one side does not vary.
struct Correlation {
  double rho = 0, p = 1;
};
std::optional<Correlation> spearman(const Sample& x, const Sample& y);

// The t of a 100·level % interval: quantile (1 + level) / 2 of Student's distribution.
double t_quantile(double level, double df);

}  // namespace glia::statistics
