// Rules that change the experts' gradients: each against plain loops, over micro-batches and ranks, and through a
// checkpoint.
#include "moe/update_rule.h"

#include "tests/nn/helpers.h"

namespace glia::test {
namespace {

using Matrix = std::vector<std::vector<double>>;

Matrix times(const Matrix& a, const Matrix& b) {
  Matrix c(a.size(), std::vector<double>(b[0].size()));
  for (size_t i = 0; i < a.size(); ++i)
    for (size_t k = 0; k < b.size(); ++k)
      for (size_t j = 0; j < b[0].size(); ++j) c[i][j] += a[i][k] * b[k][j];
  return c;
}

TEST_CASE("update rules: orthogonal gradients are those of plain loops, and the others' inputs do not see them") {
  constexpr int64_t kExperts = 3, kHidden = 5, kFfn = 4, kRows = 7;
  Context context(test_device(), 5);
  ParameterSet set;
  const Experts experts(set, "experts", kExperts, kHidden, kFfn, 0.1);
  OptionValues options;
  options.set("update-rule", std::string("orthogonal"));
  options.set("orthogonal-alpha", 1e-3);
  const auto rule = make_update_rule(set, "layer", experts, options);
  set.materialise(context, 3, DType::kFloat64);

  std::vector<Matrix> projector(kExperts, Matrix(kHidden, std::vector<double>(kHidden)));
  for (Matrix& p : projector)
    for (int64_t i = 0; i < kHidden; ++i) p[i][i] = 1;
  std::vector<std::vector<double>> mean(kExperts, std::vector<double>(kHidden));
  for (uint32_t step = 0; step < 4; ++step) {
    const Tensor x = random_normal(context, {kRows, kHidden}, 1, 10 + step, purpose::kTest);
    Routing routing;  // two experts a row; nobody in the last one, and expert 2 has none in step 1
    routing.n_experts = kExperts;
    std::vector<int32_t> chosen;
    for (int32_t t = 0; t < kRows; ++t)
      for (int32_t k = 0; k < 2; ++k)
        chosen.push_back(t + 1 == kRows ? -1 : step == 1 ? k : (t + k) % static_cast<int32_t>(kExperts));
    routing.experts = from_vector(context, chosen, {kRows, 2});
    const Tensor x64 = cast(x, DType::kFloat64);
    StepStatistics statistics;  // of two micro-batches
    for (const int64_t half : {0, 1}) {
      Routing part = routing;
      part.experts = routing.experts.rows(half ? 3 : 0, half ? kRows : 3);
      statistics.add(rule->observe(x64.rows(half ? 3 : 0, half ? kRows : 3), part));
    }
    set.clear_gradients();
    set.complete_gradients();
    Tensor gradient = set.gradient(*experts.up_weight);
    gradient.copy_from(
        cast(random_normal(context, gradient.shape(), 1, 20 + step, purpose::kTest), DType::kFloat64));
    const std::vector<double> before = values(gradient);
    rule->before_update(set, statistics);
    const std::vector<double> after = values(gradient);

    for (int64_t e = 0; e < kExperts; ++e) {
      Matrix g(kFfn, std::vector<double>(kHidden)), others(kHidden, std::vector<double>(kHidden));
      for (int64_t i = 0; i < kFfn * kHidden; ++i) g[i / kHidden][i % kHidden] = before[e * kFfn * kHidden + i];
      for (int64_t o = 0; o < kExperts; ++o)
        for (int64_t i = 0; o != e && i < kHidden * kHidden; ++i)
          others[i / kHidden][i % kHidden] += projector[o][i / kHidden][i % kHidden] / (kExperts - 1);
      const Matrix wanted = step % 2 ? times(g, others) : g;
      for (int64_t i = 0; i < kFfn * kHidden; ++i)
        EXPECT(std::abs(after[e * kFfn * kHidden + i] - wanted[i / kHidden][i % kHidden]) < 1e-12);
    }
    const std::vector<double> rows = values(x64);
    for (int64_t e = 0; e < kExperts; ++e) {
      std::fill(mean[e].begin(), mean[e].end(), 0);
      int64_t count = 0;
      for (int64_t p = 0; p < kRows * 2; ++p)
        if (chosen[p] == e && ++count)
          for (int64_t i = 0; i < kHidden; ++i) mean[e][i] += rows[p / 2 * kHidden + i];
      std::vector<double> y(kHidden);
      double size = 1e-3;
      for (int64_t i = 0; i < kHidden; ++i) mean[e][i] /= static_cast<double>(std::max<int64_t>(count, 1));
      for (int64_t i = 0; i < kHidden; ++i)
        for (int64_t j = 0; j < kHidden; ++j) y[i] += projector[e][i][j] * mean[e][j];
      for (int64_t i = 0; i < kHidden; ++i) size += mean[e][i] * y[i];
      for (int64_t i = 0; i < kHidden; ++i)
        for (int64_t j = 0; j < kHidden; ++j) projector[e][i][j] -= y[i] * y[j] / size;
    }
  }
}

TEST_CASE("update rules: what there is not is an error that lists what there is; none changes nothing") {
  Context context(test_device());
  ParameterSet set;
  const Experts one(set, "one", 1, 4, 4, 0.1);
  OptionValues options;
  EXPECT(!make_update_rule(set, "layer", one, options));
  for (const UpdateRuleRow& row : update_rule_registry()) {
    options.set("update-rule", std::string(row.name));
    EXPECT(contains(error_of([&] { make_update_rule(set, "layer", one, options); }), "2 experts or more"));
  }
  options.set("update-rule", std::string("other"));
  EXPECT(contains(error_of([&] { make_update_rule(set, "layer", one, options); }), "none, orthogonal"));
}

}  // namespace
}  // namespace glia::test
