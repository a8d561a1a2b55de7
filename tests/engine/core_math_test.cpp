// The branch-free float functions against the C library in double, over their whole ranges.
#include <cmath>

#include "engine/core/math.h"
#include "tests/test.h"

using namespace glia;

namespace {

// The largest error over [low, high], in units in the last place of the float result.
template <class F, class G> double worst_ulp(double low, double high, F&& f, G&& exact) {
  double worst = 0;
  for (int i = 0; i <= 200000; ++i) {
    const float x = static_cast<float>(low + (high - low) * i / 200000);
    const double y = exact(static_cast<double>(x));
    const float nearest = static_cast<float>(std::abs(y));
    const double ulp = static_cast<double>(std::nextafter(nearest, INFINITY)) - static_cast<double>(nearest);
    worst = std::max(worst, std::abs(static_cast<double>(f(x)) - y) / ulp);
  }
  return worst;
}

}  // namespace

TEST_CASE("math: float functions are right to two units in the last place") {
  const auto e = [](auto x) { return math::exp(x); };
  const auto l = [](auto x) { return math::log(x); };
  const auto t = [](auto x) { return math::tanh(x); };
  const auto p = [](auto x) { return math::log1p_unit(x); };
  EXPECT(worst_ulp(-87.3, 88.7, e, [](double x) { return std::exp(x); }) < 1.1);
  EXPECT(worst_ulp(-1, 1, e, [](double x) { return std::exp(x); }) < 1.1);
  EXPECT(worst_ulp(-103, -87.4, e, [](double x) { return std::exp(x); }) < 1.1);  // subnormal results
  EXPECT(worst_ulp(
             -87.2, 0, [](auto x) { return math::exp_negative(x); }, [](double x) { return std::exp(x); }) < 1.1);
  EXPECT(worst_ulp(0.001, 4, l, [](double x) { return std::log(x); }) < 1.1);
  EXPECT(worst_ulp(1, 1e30, l, [](double x) { return std::log(x); }) < 1.1);
  EXPECT(worst_ulp(1e-42, 1e-38, l, [](double x) { return std::log(x); }) < 1.1);  // subnormal arguments
  EXPECT(worst_ulp(-12, 12, t, [](double x) { return std::tanh(x); }) < 1.5);
  EXPECT(worst_ulp(-0.7, 0.7, t, [](double x) { return std::tanh(x); }) < 1.5);
  EXPECT(worst_ulp(0, 1, p, [](double x) { return std::log1p(x); }) < 2.1);
}

TEST_CASE("math: the normal distribution function keeps its tail, where 1 + erf cancels") {
  double worst = 0, plain = 0;
  for (double x = -12; x <= 12; x += 1e-4) {
    const float f = static_cast<float>(x);
    const double exact = 0.5 * std::erfc(-static_cast<double>(f) * M_SQRT1_2);
    worst = std::max(worst, std::abs(static_cast<double>(math::normal(f).cdf) - exact));
    plain = std::max(plain, std::abs(static_cast<double>(0.5f * (1.0f + std::erf(f * 0.70710678f))) - exact));
    if (f > -5) EXPECT(std::abs(static_cast<double>(math::normal(f).cdf) / exact - 1) < 5e-6);
  }
  EXPECT(worst < 1e-7);
  EXPECT(worst < 2 * plain);
  EXPECT(math::normal(1.5).cdf == doctest::Approx(0.5 * std::erfc(-1.5 * M_SQRT1_2)).epsilon(1e-15));
}

TEST_CASE("math: infinities, NaN and the ends of the range") {
  const float inf = INFINITY, nan = NAN;
  EXPECT(math::exp(inf) == inf);
  EXPECT(math::exp(-inf) == 0.0f);
  EXPECT(math::exp(89.5f) == inf);
  EXPECT(std::isfinite(math::exp(88.72f)));
  EXPECT(std::isnan(math::exp(nan)));
  EXPECT(math::exp_negative(0.0f) == 1.0f);
  EXPECT(math::exp_negative(-inf) == 0.0f);
  EXPECT(math::exp_negative(-1e30f) == 0.0f);
  EXPECT(std::isnan(math::exp_negative(nan)));
  EXPECT(math::log(0.0f) == -inf);
  EXPECT(math::log(inf) == inf);
  EXPECT(std::isnan(math::log(-1.0f)));
  EXPECT(std::isnan(math::log(nan)));
  EXPECT(math::tanh(inf) == 1.0f);
  EXPECT(math::tanh(-inf) == -1.0f);
  EXPECT(std::isnan(math::tanh(nan)));
  EXPECT(math::normal(inf).cdf == 1.0f);
  EXPECT(math::normal(-inf).cdf == 0.0f);
  EXPECT(math::normal(inf).pdf == 0.0f);
  EXPECT(std::isnan(math::normal(nan).cdf));
}
