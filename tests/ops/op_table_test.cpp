// Walks the table of op_cases.h: gradients, lower precisions and the other device against float64 on the CPU,
// memory, and the same bits every time. Nobody writes such a test for one op.
#include <omp.h>

#include <cmath>

#include "engine/core/random/rng.h"
#include "moe/router.h"
#include "tests/cases/gradcheck.h"
#include "tests/device.h"
#include "tests/test.h"

using namespace glia;
using glia::test::on_gpu;

namespace {

using Values = std::vector<double>;

struct Evaluation {
  std::vector<Values> results;  // the output, then every input's gradient
  double ops = 1;               // nodes that the tape recorded
};

// One row in one dtype. The output's gradient is fixed and fits bfloat16. `perturb` multiplies every element of the
// inputs and of that gradient by 1 ± perturb, the sign drawn at random.
Evaluation evaluate(Context& context, const OpCase& c, DType dtype, double perturb = 0, uint64_t seed = 0) {
  std::vector<Var> vars;
  const auto moved = [&](const Tensor& t, uint32_t i) {
    if (perturb == 0) return t;
    Values v = t.to_vector<double>();
    for (size_t e = 0; e < v.size(); ++e)
      v[e] *= 1 + (random_bits(seed, purpose::kTest, i, e) & 1 ? perturb : -perturb);
    return from_vector(context, v, t.shape(), t.dtype());
  };
  uint32_t i = 0;
  for (const Tensor& x : make_inputs(context, c, dtype, 3)) vars.push_back(Var::parameter(moved(x, ++i)));
  const uint64_t before = context.next_node_id;
  const Var y = c.run(context, vars);
  Evaluation e{{y.value().to_vector<double>()}, std::max(1.0, static_cast<double>(context.next_node_id - before))};
  if (!c.gradient) return e;
  Values dy(e.results[0].size());
  for (size_t k = 0; k < dy.size(); ++k)
    dy[k] = static_cast<double>(bfloat16(random_normal(4, purpose::kTest, 0, k)));
  backward(y, moved(from_vector(context, dy, y.shape(), y.dtype()), 0));
  for (const Var& x : vars)
    e.results.push_back(x.grad().defined() ? x.grad().to_vector<double>() : Values(x.value().numel(), 0.0));
  return e;
}

double norm(const Values& v) {
  double sum = 0;
  for (double x : v) sum += x * x;
  return std::sqrt(sum);
}

Values difference(const Values& a, const Values& b) {
  Values d(a.size());
  for (size_t i = 0; i < a.size(); ++i) d[i] = a[i] - b[i];
  return d;
}

Values rounded(const Values& v, DType dtype) {
  Values r(v.size());
  for (size_t i = 0; i < v.size(); ++i)
    r[i] = dtype == DType::kBFloat16 ? static_cast<double>(bfloat16(v[i]))
                                     : static_cast<double>(static_cast<float>(v[i]));
  return r;
}

// docs/contributing.md, tolerances without a second implementation: what precision `dtype` costs an ideal op is the rounding of its
// exact result plus what the result moves by when the inputs are off by one rounding each (the worst of three
// draws). A single number may lie on one of dtype's by luck: its rounding counts as half a unit at least. At most twice that, gradients
// three times. Where a row is many ops, each adds its rounding: independent
// errors grow as the root of their number.
void check_precision(Context& host, Context& context, const OpCase& c, DType dtype) {
  const double unit = dtype == DType::kBFloat16 ? 0x1p-9 : 0x1p-24;
  const Evaluation exact = evaluate(host, c, DType::kFloat64), got = evaluate(context, c, dtype);
  std::vector<Evaluation> off;
  for (uint64_t seed = 1; seed <= 3; ++seed) off.push_back(evaluate(host, c, DType::kFloat64, unit, seed));
  REQUIRE(got.results.size() == exact.results.size());
  double most = 0;  // of the gradients
  for (size_t i = 1; i < exact.results.size(); ++i) most = std::max(most, norm(exact.results[i]));
  for (size_t i = 0; i < exact.results.size(); ++i) {
    const Values& truth = exact.results[i];
    double moved = 0;
    for (const Evaluation& e : off) moved = std::max(moved, norm(difference(e.results[i], truth)));
    double rounding = norm(difference(rounded(truth, dtype), truth));
    // A gradient that is 0 but for double's rounding is a sum that cancels, of terms which may be as large as the others are.
    if (i && norm(truth) <= 0x1p-52 * std::sqrt(exact.ops) * most) rounding = unit * most;
    if (truth.size() == 1) rounding = std::max(rounding, unit / 2 * norm(truth));
    const double ideal = (moved + rounding) * std::sqrt(exact.ops);
    const double error = norm(difference(got.results[i], truth)), size = norm(truth) + 1e-30;
    INFO(c.name, " in ", std::string(name(dtype)), ", result ", i, ": error ", error / size, ", allowed ",
         (i ? 3 : 2) * ideal / size);
    EXPECT(error <= (i ? 3 : 2) * ideal + 1e-12 * size);
  }
}

}  // namespace

TEST_CASE("table: names are unique, and every row has what it needs") {
  std::vector<std::string> names;
  for (const OpCase& c : op_cases()) names.push_back(c.name);
  std::sort(names.begin(), names.end());
  EXPECT(std::adjacent_find(names.begin(), names.end()) == names.end());
  EXPECT(names.size() > 100);
}

TEST_CASE("table: every option of a router has a row at another value, every text and switch of it too") {
  std::vector<std::string> of_options;  // "moe/NAME/OPTION=VALUE,…,"
  for (const OpCase& c : op_cases()) of_options.push_back(c.name + ",");
  const auto any = [&](const RouterRow& row, const std::string& told) {
    return std::any_of(of_options.begin(), of_options.end(), [&](const std::string& name) {
      return name.starts_with(fmt::format("moe/{}/", row.name)) &&
             (name.find("/" + told) != std::string::npos || name.find("," + told) != std::string::npos);
    });
  };
  for (const RouterRow& row : router_registry())
    for (const OptionRow& option : row.options) {
      INFO(row.name, " --", option.name);
      EXPECT(any(row, std::string(option.name) + "="));
      for (const char* choice : option.choices)
        EXPECT((OptionValue(std::string(choice)) == option.standard ||
                any(row, fmt::format("{}={},", option.name, choice))));
    }
}

// What walks the table takes minutes on a GPU, so each is eight cases: tests/device/suite.sh runs cases side by side.
constexpr size_t kParts = 8;
#define TABLE_CASE(name)                                                                                       \
  DOCTEST_TEST_CASE_TEMPLATE(name, Part, std::integral_constant<size_t, 0>, std::integral_constant<size_t, 1>, \
                             std::integral_constant<size_t, 2>, std::integral_constant<size_t, 3>,             \
                             std::integral_constant<size_t, 4>, std::integral_constant<size_t, 5>,             \
                             std::integral_constant<size_t, 6>, std::integral_constant<size_t, kParts - 1>)
std::vector<OpCase> rows_of(size_t part) {
  const std::vector<OpCase> all = op_cases();
  std::vector<OpCase> rows;
  for (size_t i = part; i < all.size(); i += kParts) rows.push_back(all[i]);
  return rows;
}

TABLE_CASE("table: every gradient agrees with finite differences") {
  Context context(test::device());
  for (const OpCase& c : rows_of(Part::value)) {
    const GradcheckResult r = gradcheck(context, c);
    INFO(c.name, ": error ", r.worst, " in input ", r.worst_input, " ", r.error);
    EXPECT(r.verdict == (c.gradient ? GradcheckResult::Verdict::kPass : GradcheckResult::Verdict::kNoGradient));
  }
}

TEST_CASE("gradcheck: a gradient that is wrong by one part in a thousand is caught, in every kind of row") {
  Context context(test::device());
  for (const OpCase& c : op_cases()) {
    if (!c.gradient ||
        (c.name != "softmax" && c.name != "bias_gelu/long" && c.name != "linear" && c.name != "model/none"))
      continue;
    GradcheckOptions options;
    options.plant_error = c.name;
    const GradcheckResult r = gradcheck(context, c, options);
    INFO(c.name, ": error ", r.worst);
    EXPECT(r.verdict == GradcheckResult::Verdict::kFail);
    EXPECT(r.worst > 1e-5);
    options.plant_error = "another case";
    EXPECT(gradcheck(context, c, options).verdict == GradcheckResult::Verdict::kPass);
  }
}

TABLE_CASE("table: float32 and bfloat16 err no more than their rounding explains") {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  SKIP("sanitizer builds add in sequence what others add in vectors, and round more");
#endif
  Context host(Device::cpu()), context(test::device());
  for (const OpCase& c : rows_of(Part::value)) {
    check_precision(host, context, c, DType::kFloat32);
    if (!c.bfloat16) continue;
    for (const Kernels kernels : test::kernel_sets(context)) {
      INFO("kernels ", static_cast<int>(kernels));
      context.set_kernels(kernels);
      check_precision(host, context, c, DType::kBFloat16);
    }
  }
}

TEST_CASE("table: CUDA agrees with the CPU in float64") {
  if (!on_gpu()) SKIP("no GPU (GLIA_TEST_DEVICE=cuda)");
  Context host(Device::cpu()), context(test::device());
  for (const OpCase& c : op_cases()) {
    const auto there = evaluate(context, c, DType::kFloat64).results,
               here = evaluate(host, c, DType::kFloat64).results;
    for (size_t i = 0; i < here.size(); ++i) {
      const double error = norm(difference(there[i], here[i]));
      INFO(c.name, ", result ", i, ": ", error);
      EXPECT(error <= 1e-12 * norm(here[i]) + 1e-13);
    }
  }
}

TABLE_CASE("table: the same bits every time, whatever the number of threads") {
  Context context(test::device());
  const int threads = omp_get_max_threads();
  for (const OpCase& c : rows_of(Part::value)) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      if (dtype == DType::kBFloat16 && !c.bfloat16) continue;
      for (const Kernels kernels : test::kernel_sets(context)) {
        context.set_kernels(kernels);
        const auto first = evaluate(context, c, dtype).results;
        for (const int n : {1, 3, threads}) {
          omp_set_num_threads(n);
          INFO(c.name, " in ", std::string(name(dtype)), " with ", n, " threads, kernels ",
               static_cast<int>(kernels));
          EXPECT(evaluate(context, c, dtype).results == first);
        }
      }
    }
  }
  omp_set_num_threads(threads);
}

TABLE_CASE("table: nothing is written outside an output, nothing is read before it is written, nothing leaks") {
  Context plain(test::device()), guarded(test::device());
  guarded.allocator().guard(true);
  for (const OpCase& c : rows_of(Part::value)) {
    const DType dtype = c.bfloat16 ? DType::kBFloat16 : DType::kFloat32;
    for (const Kernels kernels : test::kernel_sets(plain)) {
      plain.set_kernels(kernels), guarded.set_kernels(kernels);
      const int64_t active = guarded.allocator().stats().active, broken = guarded.allocator().overwritten();
      const auto expected = evaluate(plain, c, dtype).results, got = evaluate(guarded, c, dtype).results;
      INFO(c.name, " in ", std::string(name(dtype)), ", kernels ", static_cast<int>(kernels));
      EXPECT(guarded.allocator().overwritten() == broken);
      EXPECT(guarded.allocator().stats().active == active);
      EXPECT(got == expected);
    }
  }
}
