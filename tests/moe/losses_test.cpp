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

TEST_CASE("coupling: with another α others may answer that much of what an expert says to its own row") {
  const auto of = [](const OptionValues& own, std::vector<double>& row_values, std::vector<double>& first) {
    Bench bench(plain_router(), 4, 2, {5, 1, 7}, 0, own);
    row_values = bench.weights("l.moe.router.token.weight"), first = bench.weights("l.moe.experts.up.weight");
    return coupling_of(bench.run(bench.input()).routing);
  };
  const auto with = [](double alpha) {
    OptionValues own;
    own.set("coupling-alpha", alpha);
    return own;
  };
  std::vector<double> r, w;
  const double usual = of({}, r, w);
  EXPECT(of(with(1), r, w) == usual);
  for (const double alpha : {0.0, 0.5, 1.0, 1.5}) {
    INFO(alpha);
    const double told = of(with(alpha), r, w);
    std::vector<double> m(16);  // ‖W_first,j r_i‖
    for (size_t i = 0; i < 4; ++i)
      for (size_t j = 0; j < 4; ++j) {
        for (size_t f = 0; f < kFfn; ++f) {
          double sum = 0;
          for (size_t h = 0; h < kHidden; ++h) sum += w[(j * kFfn + f) * kHidden + h] * r[i * kHidden + h];
          m[i * 4 + j] += sum * sum;
        }
        m[i * 4 + j] = std::sqrt(m[i * 4 + j]);
      }
    double loss = 0;
    for (size_t i = 0; i < 4; ++i)
      for (size_t j = 0; j < 4; ++j)
        if (i != j)
          loss += std::max(0.0, m[i * 4 + j] - alpha * m[i * 5]) + std::max(0.0, m[j * 4 + i] - alpha * m[i * 5]);
    EXPECT(std::abs(told - loss / 16) < 1e-12);
  }
}

TEST_CASE("losses: an option of a loss that nobody weighs is refused, but for its usual value") {
  for (const LossRow& loss : loss_registry())
    for (const OptionRow& option : loss.options) {
      INFO(option.name);
      OptionValues given;
      given.set(option.name, option.standard);
      EXPECT(error_of([&] { loss_weights(router_row(plain_router()), given); }).empty());
      given.set(option.name, 0.5);
      EXPECT(contains(
          error_of([&] { loss_weights(router_row(plain_router()), given); }),
          fmt::format("--{}: expected --{} above 0 with it, got 0.5 and 0", option.name, loss.weights[0].name)));
      given.set(loss.weights[0].name, 0.1);
      EXPECT(loss_weights(router_row(plain_router()), given).get<double>(option) == 0.5);
      given.set(option.name, -1.0);
      EXPECT(contains(error_of([&] { loss_weights(router_row(plain_router()), given); }), option.name));
    }
}

}  // namespace
}  // namespace glia::test
