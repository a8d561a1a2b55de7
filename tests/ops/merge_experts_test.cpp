// merge_experts() against plain loops in float64, in sizes that the table of ops has no time for.
#include "engine/ops/products/merge_experts.h"

#include <cmath>
#include <functional>

#include "tests/device.h"
#include "tests/test.h"

using namespace glia;
using glia::test::contains;
using glia::test::error_of;

namespace {

using Values = std::vector<double>;

// Of `terms` products each of `count` sums in some order: no sum here adds more than kInARow numbers in a row, and each
// addition errs by half a unit of what was added up so far. A forgotten or doubled term would be larger.
void check_sums(const char* what, const Values& got, int64_t count, int64_t terms, double unit, double rounding,
                const std::function<double(int64_t, int64_t)>& term) {
  constexpr double kInARow = 200;
  REQUIRE(static_cast<int64_t>(got.size()) == count);
  int64_t wrong = 0;
  for (int64_t i = 0; i < count; ++i) {
    double sum = 0, size = 0;
    for (int64_t k = 0; k < terms; ++k) sum += term(i, k), size += std::abs(term(i, k));
    wrong += !(std::abs(got[i] - sum) <= kInARow * unit * size + rounding * std::abs(sum) * (1 + 1e-3));
  }
  INFO(what);
  EXPECT(wrong == 0);
}

void check(Context& c, int64_t B, int64_t E, int64_t N, DType type) {
  INFO("B ", B, ", E ", E, ", N ", N, ", ", std::string(name(type)));
  const DType sums = accumulation_dtype(type);
  const double unit = sums == DType::kFloat64 ? 0x1p-53 : 0x1p-24, rounding = type == DType::kBFloat16 ? 0x1p-8 : 0;
  const Var p = Var::parameter(random_uniform(c, {B, E}, 0, 1, 3, purpose::kTest, 1, sums)),
            w = Var::parameter(random_normal(c, {E, N}, 1, 3, purpose::kTest, 2, sums));
  const Tensor d = cast(random_normal(c, {B, N}, 1, 3, purpose::kTest, 3, sums), type);
  const Values shares = p.value().to_vector<double>(), weights = w.value().to_vector<double>(),
               gradient = d.to_vector<double>();
  const Var merged = merge_experts(p, w, type);
  REQUIRE(merged.dtype() == type);
  check_sums("merged", merged.value().to_vector<double>(), B * N, E, unit, rounding,
             [&](int64_t i, int64_t e) { return shares[i / N * E + e] * weights[e * N + i % N]; });
  backward(merged, d);
  check_sums("dp", p.grad().to_vector<double>(), B * E, N, unit, 0,
             [&](int64_t i, int64_t j) { return gradient[i / E * N + j] * weights[i % E * N + j]; });
  check_sums("dw", w.grad().to_vector<double>(), E * N, B, unit, 0,
             [&](int64_t i, int64_t b) { return shares[b * E + i / N] * gradient[b * N + i % N]; });
}

}  // namespace

TEST_CASE("merge_experts: values and gradients are those of plain loops") {
  Context c(test::device());
  for (const DType type : {DType::kBFloat16, DType::kFloat32, DType::kFloat64}) {
    for (const int64_t B : {1, 5})
      for (const int64_t E : {1, 3, 8, 17})
        for (const int64_t N : {1, 12, 13, 264}) check(c, B, E, N, type);
    // Several tiles of sequences and groups of experts; packs of columns on a GPU; as many columns, but no packs.
    check(c, 150, 40, 21, type);
    check(c, 35, 9, 32768 + 8, type);
    check(c, 5, 3, 32768 + 3, type);
  }
}

TEST_CASE("merge_experts: no sequence and no column") {
  Context c(test::device());
  const Var p = Var::parameter(zeros(c, {0, 3})), w = Var::parameter(full(c, {3, 2, 4}, 1));
  const Var none = merge_experts(p, w, DType::kBFloat16);
  EXPECT(none.shape() == (Shape{0, 2, 4}));
  backward(none, zeros(c, {0, 2, 4}, DType::kBFloat16));
  EXPECT(w.grad().to_vector<double>() == Values(24, 0.0));
  const Var q = Var::parameter(full(c, {2, 3}, 1)), empty_rows = Var::parameter(zeros(c, {3, 0}));
  backward(merge_experts(q, empty_rows, DType::kFloat32), zeros(c, {2, 0}));
  EXPECT(q.grad().to_vector<double>() == Values(6, 0.0));
}

// The experts' weights are read and their gradient is summed in float32; a parameter may keep it in bfloat16.
TEST_CASE("merge_experts: float32 masters, rounded once") {
  Context c(test::device());
  const float above = 1 + 0x1p-8f;  // halfway between two bfloat16
  const Var p = Var::parameter(from_vector<float>(c, {0.5f, 0.5f}, {1, 2}));
  const Tensor w = from_vector<float>(c, {above, 1 + 0x1p-7f, above, 1.0f}, {2, 2}),
               buffer = empty(c, {2, 2}, DType::kBFloat16);
  const Var wide = Var::parameter(w), narrow = Var::parameter(w, buffer);
  for (const Var* v : {&wide, &narrow}) {
    const Var merged = merge_experts(p, *v, DType::kBFloat16);
    // Both are 1 + 2⁻⁸, halfway between two bfloat16: to the even one.
    EXPECT(merged.value().to_vector<double>() == Values{1, 1});
    backward(merged, full(c, {1, 2}, 1 + 0x1p-7, DType::kBFloat16));
    EXPECT(v->grad().dtype() == (v == &wide ? DType::kFloat32 : DType::kBFloat16));
    EXPECT(v->grad().to_vector<double>() == Values(4, 0.5 + 0x1p-8));
  }
  // 2 (1 + 2⁻⁸) + 2⁻⁷ is a bfloat16; of a weight that was rounded first it would be halfway below, and become 2.
  const Var q = from_vector<float>(c, {2, 0x1p-7f}, {1, 2}), v = from_vector<float>(c, {above, 1}, {2, 1});
  EXPECT(merge_experts(q, v, DType::kBFloat16).value().to_vector<double>() == Values{2 + 0x1p-6});
}

TEST_CASE("merge_experts: wrong shapes and types are named") {
  Context c(test::device());
  const Tensor p = zeros(c, {2, 3}), w = zeros(c, {3, 4});
  EXPECT(contains(error_of([&] { merge_experts(p, zeros(c, {2, 4}), DType::kFloat32); }), "wants p [B, E]"));
  EXPECT(contains(error_of([&] {
                    merge_experts(zeros(c, {2, 0}), zeros(c, {0, 4}), DType::kFloat32);
                  }),
                  "wants p [B, E]"));
  EXPECT(contains(error_of([&] { merge_experts(p, w, DType::kFloat64); }), "accumulation type of float64"));
  EXPECT(contains(error_of([&] { merge_experts(p, cast(w, DType::kBFloat16), DType::kBFloat16); }),
                  "accumulation type of bfloat16"));
  EXPECT(contains(error_of([&] { merge_experts(p, w, DType::kInt32); }), "accumulation type of int32"));
}
