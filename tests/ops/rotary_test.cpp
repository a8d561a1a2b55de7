// Rotary positions: the formula, and what it is for.
#include <cmath>

#include "engine/core/random/rng.h"
#include "engine/ops/attention/rotary.h"
#include "engine/ops/elementwise/random_fill.h"
#include "tests/nn/helpers.h"

namespace glia::test {
namespace {

constexpr int64_t kHeads = 2, kWidth = 6, kRow = 3 * kHeads * kWidth;

// Row t of what rotate() is to give, its place being p.
std::vector<double> turned(const std::vector<double>& x, int64_t t, int64_t p) {
  std::vector<double> y(x.begin() + t * kRow, x.begin() + (t + 1) * kRow);
  for (int64_t head = 0; head < 2 * kHeads; ++head)
    for (int64_t i = 0; i < kWidth / 2; ++i) {
      const double angle = static_cast<double>(p) * std::pow(10000.0, -2.0 * static_cast<double>(i) / kWidth);
      const auto a = static_cast<size_t>(head * kWidth + i), b = a + kWidth / 2;
      const double first = y[a], second = y[b];
      y[a] = first * std::cos(angle) - second * std::sin(angle);
      y[b] = first * std::sin(angle) + second * std::cos(angle);
    }
  return y;
}

TEST_CASE("rotary: each row is turned by its place within its sequence, in every precision, far places too") {
  Context context(test_device(), 1);
  const std::vector<int32_t> lengths = {700, 1, 30};
  const Sequences sequences = make_sequences(context, lengths, 733);
  for (const auto& [dtype, tolerance] :
       {std::pair{DType::kFloat64, 1e-12}, {DType::kFloat32, 1e-5}, {DType::kBFloat16, 0.04}})
    for (const int64_t before : {0, 300}) {
      INFO(dtype, " ", before);
      const Tensor x = cast(random_normal(context, {733, kRow}, 1, 1, purpose::kTest), dtype);
      const std::vector<double> from = values(x), y = values(rotate(x, sequences, kHeads, before).value());
      int64_t t = 0;
      for (const int32_t length : lengths)
        for (int64_t p = 0; p < length; ++p, ++t) {
          const std::vector<double> wanted = turned(from, t, p + before);
          for (int64_t j = 0; j < kRow; ++j)
            if (std::abs(y[static_cast<size_t>(t * kRow + j)] - wanted[static_cast<size_t>(j)]) > tolerance)
              FAIL("row ", t, " column ", j);
        }
      for (; t < 733; ++t)
        for (int64_t j = 0; j < kRow; ++j) EXPECT(y[static_cast<size_t>(t * kRow + j)] == 0);
    }
}

TEST_CASE(
    "rotary: what a query has with a key depends on how far apart they are, and a row's bits on its place alone") {
  Context context(test_device(), 1);
  const Tensor one = random_normal(context, {1, kRow}, 1, 1, purpose::kTest);
  std::vector<float> rows;
  for (int t = 0; t < 12; ++t)
    for (const float v : one.to_vector<float>()) rows.push_back(v);
  const Tensor x = from_vector(context, rows, {12, kRow});
  const Sequences whole = make_sequences(context, {12}), part = make_sequences(context, {4});
  const Tensor all = rotate(cast(x, DType::kFloat64), whole, kHeads).value();
  const std::vector<double> y = values(all);
  const auto product = [&](int64_t query, int64_t key) {
    double sum = 0;
    for (int64_t j = 0; j < kWidth; ++j)
      sum += y[static_cast<size_t>(query * kRow + j)] * y[static_cast<size_t>(key * kRow + kHeads * kWidth + j)];
    return sum;
  };
  EXPECT(std::abs(product(3, 1) - product(11, 9)) < 1e-12);
  EXPECT(std::abs(product(3, 1) - product(3, 2)) > 1e-3);
  EXPECT(values(rotate(x.rows(0, 4), part, kHeads, 8).value()) ==
         values(rotate(x, whole, kHeads).value().rows(8, 12)));
}

TEST_CASE("rotary: heads of an odd width have no pairs") {
  Context context(test_device(), 1);
  const Sequences sequences = make_sequences(context, {2});
  EXPECT(contains(error_of([&] { rotate(zeros(context, {2, 18}), sequences, 2); }), "with D even"));
}

}  // namespace
}  // namespace glia::test
