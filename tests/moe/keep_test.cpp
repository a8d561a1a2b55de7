// Who may be chosen: the masks of keep.h against plain loops.
#include "engine/ops/routing/keep.h"

#include <set>

#include "engine/ops/moe/choose.h"
#include "tests/moe/bench.h"

namespace glia::test {
namespace {

TEST_CASE(
    "keep: each expert's best tokens of every sequence, ties to the first, one at least; nobody in the tail") {
  Context context(test_device());
  const Sequences q = make_sequences(context, {4, 1, 3}, 9);
  const std::vector<double> x = {1, 5, 2, 5, 2, 1, 0, 9, 7, 7, 3, 1, 3, 1, 2, 1, 8, 8};
  const Tensor t = from_vector<double>(context, x, {9, 2});
  const auto kept = [&](double share) {
    std::vector<int> mask;
    for (const double v : values(keep_top_rows(t, share, q))) mask.push_back(v != -INFINITY);
    return mask;
  };
  EXPECT(kept(0.5) == std::vector<int>{0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0});
  EXPECT(kept(1) == std::vector<int>{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0});
  EXPECT(kept(1.0 / 3) == kept(0.3));
}

TEST_CASE("keep: numbers at a rank of each column over the real rows, for every rank, infinities and both types") {
  Context context(test_device());
  const Sequences q = make_sequences(context, {5, 6}, 13);
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    const Tensor x = random_normal(context, {13, 3}, 2, 5, purpose::kTest, 0, dtype);
    std::vector<double> v = values(x);
    for (size_t t = 0; t < 4; ++t)
      v[t * 3] = 0.5, v[t * 3 + 1] = t % 2 ? INFINITY : -0.25;  // ties, and −0 beside 0
    const Tensor y = from_vector<double>(context, v, {13, 3}, dtype);
    for (int64_t rank = 1; rank <= 12; ++rank) {
      const std::vector<double> got = values(column_rank(y, 1e-6, rank, q));
      for (size_t e = 0; e < 3; ++e) {
        std::vector<double> column;
        for (size_t t = 0; t < 11; ++t) column.push_back(v[t * 3 + e]);
        std::sort(column.rbegin(), column.rend());
        const double expected = column[size_t(std::min<int64_t>(rank, 11)) - 1];
        EXPECT((got[e] == expected || std::abs(got[e] - expected) < 1e-6));
      }
    }
    double least = INFINITY;
    for (size_t t = 0; t < 11; ++t) least = std::min(least, v[t * 3 + 2]);
    EXPECT(std::abs(values(column_rank(y, 1, 0, q))[2] - least) < 1e-6);
  }
}

TEST_CASE("keep: the largest of a row, as many as are asked for or as the random number says") {
  Context context(test_device());
  const Tensor x = from_vector<double>(context, {3, 1, 3, 2, 0, 4, 4, 4}, {2, 4});
  const auto count = [&](const Tensor& y) {
    std::vector<int> mask;
    for (const double v : values(y)) mask.push_back(v == 0);
    return mask;
  };
  EXPECT(count(keep_largest(x, 2, 2, {})) == std::vector<int>{1, 0, 1, 0, 0, 1, 1, 0});
  const Tensor u = from_vector<double>(context, {0, 0.9999}, {2});
  EXPECT(count(keep_largest(x, 1, 4, u)) == std::vector<int>{1, 0, 0, 0, 1, 1, 1, 1});
  const Tensor bound = from_vector<double>(context, {1, 4, 3.5, 0}, {4});
  std::vector<int> mask;
  for (const double v : values(keep_at_least(x, bound))) mask.push_back(v != -INFINITY);
  EXPECT(mask == std::vector<int>{1, 0, 0, 1, 0, 1, 1, 1});
}

}  // namespace
}  // namespace glia::test
