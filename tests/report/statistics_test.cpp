#include "experiments/report/statistics.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/core/file.h"
#include "tests/test.h"

using namespace glia;
using namespace glia::statistics;
using glia::test::contains;
using glia::test::error_of;
using Json = nlohmann::json;

namespace {

// scipy 1.10 finds the quantiles of t by bisection, to about 4e-9.
constexpr double kQuantile = 1e-8;

// The ends of an interval may cancel to nearly nothing: `scale` is the size of what was subtracted.
void expect_near(double got, const Json& value, double scale = 0, double tolerance = 1e-10) {
  const double wanted = value.get<double>();
  INFO(fmt::format("got {:.17g}, wanted {:.17g}", got, wanted));
  EXPECT(std::abs(got - wanted) <= tolerance * std::max(std::abs(wanted), scale));
}

void expect_interval(double low, double high, const Json& wanted) {
  const double scale = std::max(std::abs(low), std::abs(high));
  expect_near(low, wanted[0], scale, kQuantile);
  expect_near(high, wanted[1], scale, kQuantile);
}

void expect_test(const std::optional<TTest>& got, const Json& expected) {
  REQUIRE(got.has_value());
  expect_near(got->t, expected["t"]);
  expect_near(got->df, expected["df"]);
  expect_near(got->p, expected["p"]);
  expect_interval(got->ci_low, got->ci_high, expected["interval"]);
}

}  // namespace

TEST_CASE("statistics: scipy's values") {
  // Written by tests/peer/statistics_fixture.py.
  const Json fixture = Json::parse(read_file("tests/fixtures/statistics.json"));
  REQUIRE(fixture["cases"].size() == 7);
  for (const auto& [name, c] : fixture["cases"].items()) {
    INFO(name);
    const Sample x = c["x"].get<Sample>(), y = c["y"].get<Sample>();
    const Estimate e = estimate(x);
    expect_near(*e.mean, c["mean"]);
    expect_near(*e.sd, c["sd"]);
    expect_near(*e.se, c["se"]);
    expect_interval(*e.ci_low, *e.ci_high, c["interval"]);
    expect_test(welch(x, y), c["welch"]);
    expect_near(*cohen_d(x, y), c["cohen_d"]);
    if (c.contains("paired")) expect_test(paired(x, y), c["paired"]);
  }
  for (const Json& c : fixture["contrasts"]) {
    const auto samples = c["samples"].get<std::vector<Sample>>();
    std::vector<Term> terms;
    for (size_t i = 0; i < samples.size(); ++i) terms.push_back({c["weights"][i].get<double>(), &samples[i]});
    expect_test(contrast(terms), c);
  }
  const auto discoveries = benjamini_hochberg(std::vector<std::optional<double>>(
      fixture["benjamini_hochberg"]["p"].begin(), fixture["benjamini_hochberg"]["p"].end()));
  for (size_t i = 0; i < discoveries.size(); ++i)
    expect_near(*discoveries[i], fixture["benjamini_hochberg"]["corrected"][i]);
  for (const Json& c : fixture["equivalence"]) {
    const auto e = equivalence(c["x"].get<Sample>(), c["y"].get<Sample>(), c["margin"].get<double>());
    REQUIRE(e.has_value());
    expect_near(e->p, c["p"], 0, 1e-9);
    expect_interval(e->ci_low, e->ci_high, c["interval"]);
  }
  REQUIRE(fixture["block_f_test"].size() == 2);
  for (const Json& c : fixture["block_f_test"]) {
    const auto f = block_f_test(c["rows"].get<std::vector<Sample>>());
    REQUIRE(f.has_value());
    for (const auto& [key, got] : {std::pair{"f", f->f}, {"df", f->df}, {"rest_df", f->rest_df}, {"p", f->p}})
      expect_near(got, c[key], 0, 1e-8);
  }
  REQUIRE(fixture["spearman"].size() == 4);
  for (const Json& c : fixture["spearman"]) {
    const auto s = spearman(c["x"].get<Sample>(), c["y"].get<Sample>());
    REQUIRE(s.has_value());
    expect_near(s->rho, c["rho"]);
    expect_near(s->p, c["p"]);
  }
  REQUIRE(fixture["power"].size() == 20);
  for (const Json& row : fixture["power"])
    expect_near(power(row[0].get<int>(), row[1].get<double>()), row[2], 1, 1e-8);
  for (const Json& row : fixture["t_quantile"])
    expect_near(t_quantile(0.95, row[0].get<double>()), row[1], 0, kQuantile);
  std::vector<std::optional<double>> p;
  for (double value : fixture["holm"]["p"]) p.push_back(value);
  const auto corrected = holm(p);
  for (size_t i = 0; i < p.size(); ++i) expect_near(*corrected[i], fixture["holm"]["corrected"][i]);
}

TEST_CASE("statistics: Holm by hand, with absent entries") {
  // R: p.adjust(c(.01, .02, .03, .04, .05), "holm")
  const auto a = holm({.04, .01, {}, .05, .02, .03});
  EXPECT(*a[0] == doctest::Approx(.09));
  EXPECT(*a[1] == doctest::Approx(.05));
  EXPECT(!a[2].has_value());
  EXPECT(*a[3] == doctest::Approx(.09));
  EXPECT(*a[4] == doctest::Approx(.08));
  EXPECT(*a[5] == doctest::Approx(.09));
  EXPECT(*holm({0.9, 0.8})[0] == 1.0);
  EXPECT(holm({}).empty());
}

TEST_CASE("statistics: too little data gives nothing, not a number") {
  const Sample none, one = {0.9}, two = {0.9, 0.91}, same = {0.9, 0.9}, other = {0.8, 0.8};
  EXPECT(!estimate(none).mean);
  EXPECT(*estimate(one).mean == 0.9);
  EXPECT(!estimate(one).se);
  EXPECT(!estimate(one).ci_low);
  EXPECT(estimate(two).ci_low.has_value());
  EXPECT(!welch(one, two));
  EXPECT(!welch(two, one));
  EXPECT(!welch(same, other));  // infinitely significant is no statement
  EXPECT(!paired(one, one));
  EXPECT(!block_f_test({two}));
  EXPECT(!block_f_test({one, one}));
  EXPECT(!block_f_test({{0.1, 0.2, 0.3}, {0.3, 0.4, 0.5}}));  // differs by the same in every block: no rest
  EXPECT(!spearman(two, two));
  const auto reversed = spearman({1, 2, 4, 8}, {-1, -2, -3, -5});
  EXPECT(reversed->rho == -1);
  EXPECT(reversed->p == 0);
  EXPECT(!spearman({0.9, 0.9, 0.9}, {0.1, 0.2, 0.3}));
  EXPECT(!paired({0.3, 0.2, 0.1}, {0.2, 0.1, 0.0}));  // a constant difference, up to rounding
  EXPECT(!cohen_d(same, other));
  EXPECT(!cohen_d(one, two));
  EXPECT(contains(error_of([&] { paired(one, two); }), "1 values against 2"));
}

TEST_CASE("statistics: equivalence, false discoveries, power and the bootstrap at their edges") {
  const Sample x = {0.94, 0.95, 0.945}, flat = {0.9, 0.9, 0.9};
  EXPECT(!equivalence(flat, flat, 0.01));
  EXPECT(!equivalence({0.9}, x, 0.01));
  EXPECT(equivalence(x, x, 0.1)->p < 1e-3);
  EXPECT(equivalence(x, x, 1e-4)->p > 0.4);  // a difference that small cannot be excluded
  EXPECT(contains(error_of([&] { equivalence(x, x, 0); }), "wants a margin above 0, got 0"));
  const auto p = benjamini_hochberg({0.01, std::nullopt, 0.04, 0.03});
  EXPECT(!p[1]);
  EXPECT(*p[0] == doctest::Approx(0.03));
  EXPECT(*p[2] == doctest::Approx(0.04));
  EXPECT(*p[3] == doctest::Approx(0.04));  // 0.045 by its rank, no more than the next
  EXPECT(benjamini_hochberg({}).empty());
  EXPECT(power(5, 0) == 0.05);
  EXPECT(power(5, 100) == 1);
  EXPECT(power(5, -1) == power(5, 1));
  EXPECT(*values_needed(1.0) == 17);  // Cohen 1988, table 2.4.1
  EXPECT(*values_needed(0.5) == 64);
  EXPECT(*values_needed(50) == 2);
  EXPECT(!values_needed(0.001));
  Sample right(1000, 1.0);
  std::fill_n(right.begin(), 100, 0.0);
  const auto interval = bootstrap_mean(right);
  REQUIRE(interval.has_value());
  const double half = 1.96 * std::sqrt(0.9 * 0.1 / 1000);  // the normal approximation
  EXPECT(std::abs(0.9 - half - interval->low) < 0.1 * half);
  EXPECT(std::abs(0.9 + half - interval->high) < 0.1 * half);
  EXPECT(bootstrap_mean(right)->low == interval->low);
  EXPECT(!bootstrap_mean({1.0}));
  EXPECT(bootstrap_mean({1, 1, 1})->high == 1);
}
