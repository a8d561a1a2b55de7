// What losses on routing do in training alone, where no oracle follows them.
#include "tests/moe/bench.h"

namespace glia::test {
namespace {

// Experts whose first product reads coordinate `at` of its input, with these factors.
void set_readers(Bench& bench, const std::vector<double>& factors, size_t at) {
  const Parameter& p = bench.set.get("l.moe.experts.up.weight");  // [E, F, H]
  std::vector<double> w(static_cast<size_t>(p.shape.numel()));
  for (size_t e = 0; e < factors.size(); ++e) w[e * kFfn * kHidden + at] = factors[e];
  Tensor(p.var.value()).copy_from(from_vector<double>(bench.context, w, p.shape, DType::kFloat64));
}

double coupling_of(const Routing& r) {
  for (const AuxiliaryLosses& losses : r.losses)
    if (losses.names[0] == "coupling") return values(losses.values.value())[0];
  fail_input("no coupling loss");
}

TEST_CASE(
    "coupling: in training each number of a probe moves on its own, anew in each step, by at most half the way to the "
    "nearest row") {
  // Only M_10 = 2 r_1 δ_1 is not 0, but for M_00, which is larger: the loss is relu(M_10 − M_11) / E² = 2 δ_1 / 9.
  Bench bench(plain_router(), 3);
  std::vector<double> r(3 * kHidden, 1.0);
  r[0] = r[1] = 3;
  for (size_t h = 0; h < kHidden; ++h) r[2 * kHidden + h] = h < 2 ? 0 : -5;
  const Parameter& p = bench.set.get("l.moe.router.token.weight");
  Tensor(p.var.value()).copy_from(from_vector<double>(bench.context, r, p.shape, DType::kFloat64));
  const double reach = std::sqrt(8.0) / 2 / std::sqrt(8.0);  // ‖r_1 − r_0‖ / (2 ‖r_1‖)
  const auto factor = [&](size_t at, bool training) {
    set_readers(bench, {2, 0, 0}, at);
    return coupling_of(bench.run(bench.input(), false, training).routing) * 9 / 2;
  };
  EXPECT(std::abs(factor(0, false) - 1) < 1e-9);
  double least = 2, most = 0, sum = 0;
  constexpr int kSteps = 300;
  for (int step = 0; step < kSteps; ++step) {
    bench.context.set_step(static_cast<uint32_t>(step));
    const double one = factor(0, true), other = factor(1, true);
    EXPECT(one != other);
    EXPECT(one == factor(0, true));
    for (const double f : {one, other}) least = std::min(least, f), most = std::max(most, f), sum += f;
  }
  EXPECT(least >= 1 - reach);
  EXPECT(least < 1 - 0.95 * reach);
  EXPECT(most <= 1 + reach);
  EXPECT(most > 1 + 0.95 * reach);
  EXPECT(std::abs(sum / (2 * kSteps) - 1) < 0.05);  // four deviations of the mean
}

}  // namespace
}  // namespace glia::test
