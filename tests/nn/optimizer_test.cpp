#include "nn/optimizer.h"

#include <optional>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/rows/reduce.h"
#include "tests/nn/helpers.h"

namespace glia::test {
namespace {

// A set of two parameters whose gradients we write ourselves.
struct Bench {
  Context context{test_device()};
  ParameterSet set;
  Parameter *w, *b;

  Bench(DType dtype, bool copy) {
    w = set.add("w", {5000, 7}, Init::normal(1), true);
    b = set.add("b", {333}, Init::normal(1), false);
    set.materialise(context, 7, dtype, copy);
  }
  // Makes the gradient of step i, through the tape, and returns it; `bad` replaces its first element.
  std::vector<double> gradient(int i, double size, std::optional<double> bad = {}) {
    set.clear_gradients();
    std::vector<double> all;
    Var loss;
    for (Parameter* p : {w, b}) {
      const Tensor g = random_normal(context, p->shape, size, 3, purpose::kTest,
                                     static_cast<uint32_t>(2 * i + (p == b)), p->var.dtype());
      if (bad) fill(g.reshape({-1}).rows(0, 1), *bad);
      const Var term = sum(mul(p->var, g));
      loss = loss.defined() ? add(loss, term) : term;
      const std::vector<double> v = values(g);
      all.insert(all.end(), v.begin(), v.end());
    }
    backward(loss);
    return all;
  }
};

// Loshchilov & Hutter 2019 element by element, in double.
struct Reference {
  std::vector<double> p, m, v;
  void step(const AdamWOptions& o, int i, const std::vector<double>& g, size_t decayed) {
    double norm = 0;
    for (const double x : g) norm += x * x;
    const double clip = o.clip > 0 ? std::min(1.0, o.clip / (std::sqrt(norm) + 1e-6)) : 1;
    double lr = o.learning_rate;
    if (i < o.warmup_steps) lr *= static_cast<double>(i) / static_cast<double>(o.warmup_steps);
    else if (o.total_steps)
      lr *= std::max(0.0,
                     static_cast<double>(o.total_steps - i) / static_cast<double>(o.total_steps - o.warmup_steps));
    for (size_t k = 0; k < p.size(); ++k) {
      const double x = g[k] * clip;
      if (k < decayed) p[k] -= lr * o.weight_decay * p[k];
      m[k] = o.beta1 * m[k] + (1 - o.beta1) * x;
      v[k] = o.beta2 * v[k] + (1 - o.beta2) * x * x;
      const double mh = m[k] / (1 - std::pow(o.beta1, i + 1)), vh = v[k] / (1 - std::pow(o.beta2, i + 1));
      p[k] -= lr * mh / (std::sqrt(vh) + o.eps);
    }
  }
};

TEST_CASE("adamw: flat steps agree with a scalar reference (clipping, warm-up, decay, weight decay)") {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
    Bench bench(dtype, dtype == DType::kFloat32);
    AdamWOptions o;
    o.learning_rate = 0.01, o.warmup_steps = 3, o.total_steps = 8, o.weight_decay = 0.1;
    AdamW optimiser(bench.set, o);
    Reference r;
    const std::vector<double> w = values(bench.w->var.value()), b = values(bench.b->var.value());
    r.p = w;
    r.p.insert(r.p.end(), b.begin(), b.end());
    r.m.resize(r.p.size()), r.v.resize(r.p.size());
    for (int i = 0; i < 10; ++i) {
      const std::vector<double> g = bench.gradient(i, i % 2 ? 1e-3 : 1);  // below and above the clip
      bench.context.set_step(static_cast<uint32_t>(i));
      optimiser.step();
      r.step(o, i, g, w.size());
      double norm = 0;
      for (const double x : g) norm += x * x;
      EXPECT(std::abs(optimiser.report().gradient_norm - std::sqrt(norm)) < 1e-6 * std::sqrt(norm));
    }
    std::vector<double> mine = values(bench.w->var.value());
    const std::vector<double> rest = values(bench.b->var.value());
    mine.insert(mine.end(), rest.begin(), rest.end());
    EXPECT(largest_difference(mine, r.p) < (dtype == DType::kFloat64 ? 1e-13 : 2e-6));
    EXPECT(optimiser.report().learning_rate == 0);  // step 9 lies behind the schedule's end
    if (bench.set.copy().defined())
      EXPECT(values(bench.set.copy()) == values(cast(bench.set.values(), DType::kBFloat16)));
  }
}

TEST_CASE("adamw: gradients of two dtypes, bfloat16 for the first elements, agree with the scalar reference") {
  constexpr int64_t n = 64 * 601;  // some chunks of the norm, the last one of each segment not full
  for (const DType dtype : {DType::kFloat64, DType::kFloat32})
    for (const auto& [split, decayed] : {std::pair<int64_t, int64_t>{64 * 299, 64 * 400},
                                         {64 * 299, 64 * 100},
                                         {64, n},
                                         {n, 64 * 7},
                                         {0, 64 * 400}}) {
      INFO("split ", split, " decayed ", decayed);
      Context context(test_device());
      AdamWBuffers b;
      b.p = random_normal(context, {n}, 1, 3, purpose::kTest, 50, dtype);
      b.m = zeros_like(b.p), b.v = zeros_like(b.p);
      b.copy = zeros(context, {n}, DType::kBFloat16);
      b.decayed = decayed;
      b.partial = zeros(context, {norm_chunks(split) + norm_chunks(n - split)}, DType::kFloat64);
      b.factors = zeros(context, {adamw_factor::kCount}, DType::kFloat64);
      b.ticket = zeros(context, {1}, DType::kInt32);
      AdamWOptions o;
      o.learning_rate = 0.01, o.weight_decay = 0.1;
      Reference r;
      r.p = values(b.p);
      r.m.resize(r.p.size()), r.v.resize(r.p.size());
      for (int i = 0; i < 6; ++i) {
        const auto step = static_cast<uint32_t>(i);
        const double size = i % 2 ? 1e-3 : 1;  // below and above the clip
        if (split) b.low = random_normal(context, {split}, size, 4, purpose::kTest, step, DType::kBFloat16);
        b.g = random_normal(context, {n - split}, size, 5, purpose::kTest, step, dtype);
        std::vector<double> g = split ? values(b.low) : std::vector<double>{};
        const std::vector<double> rest = values(b.g);
        g.insert(g.end(), rest.begin(), rest.end());
        context.set_step(step);
        adamw_step(b, o);
        r.step(o, i, g, static_cast<size_t>(decayed));
        double norm = 0;
        for (const double x : g) norm += x * x;
        EXPECT(std::abs(values(b.factors)[adamw_factor::kNorm] - std::sqrt(norm)) < 1e-6 * std::sqrt(norm));
      }
      EXPECT(largest_difference(values(b.p), r.p) < (dtype == DType::kFloat64 ? 1e-13 : 2e-6));
      EXPECT(values(b.copy) == values(cast(b.p, DType::kBFloat16)));
      // Inf in either segment skips the step.
      const std::vector<double> before = values(b.p);
      for (const Tensor& t : {b.low, b.g})
        if (t.defined() && t.numel()) {
          fill(t.rows(t.numel() - 1, t.numel()), INFINITY);
          adamw_step(b, o);
          fill(t.rows(t.numel() - 1, t.numel()), 0);
        }
      EXPECT(values(b.p) == before);
      EXPECT(values(b.factors)[adamw_factor::kSkipped] == (split == 0 || split == n ? 1 : 2));
    }
}

TEST_CASE("adamw: a norm that was taken range by range is that of all") {
  constexpr int64_t n = 64 * 1200;
  for (const DType dtype : {DType::kFloat64, DType::kFloat32})
    for (const int64_t split : {int64_t{0}, int64_t{64 * 517}, n}) {
      Context context(test_device());
      AdamWBuffers b;
      b.p = random_normal(context, {n}, 1, 3, purpose::kTest, 50, dtype);
      b.m = zeros_like(b.p), b.v = zeros_like(b.p);
      b.partial = zeros(context, {norm_chunks(split) + norm_chunks(n - split)}, DType::kFloat64);
      b.factors = zeros(context, {adamw_factor::kCount}, DType::kFloat64);
      b.ticket = zeros(context, {1}, DType::kInt32);
      if (split) b.low = random_normal(context, {split}, 1, 4, purpose::kTest, 1, DType::kBFloat16);
      b.g = random_normal(context, {n - split}, 1, 5, purpose::kTest, 1, dtype);
      adamw_step(b, {});
      const double norm = values(b.factors)[adamw_factor::kNorm];
      // More ranges than one launch takes, in two parts: every third is in the first, one is long, some are empty.
      std::vector<AdamWSpan> parts[2];
      int64_t at = 0;
      for (int i = 0; i < 230; ++i) {
        const int64_t end = i == 100 ? at + 64 * 300 : std::min(n, at + 64 * (i % 5));
        parts[i % 3 > 0].push_back({at, end, 0});
        at = end;
      }
      parts[1].push_back({at, n, 0});
      b.squares = zeros(context, {1}, DType::kFloat64);
      adamw_squares(b, parts[0]);
      EXPECT(values(b.squares)[0] < 0.5 * norm * norm);
      adamw_squares(b, parts[1]);
      EXPECT(std::abs(std::sqrt(values(b.squares)[0]) - norm) < 1e-12 * norm);
      const std::vector<double> first = values(b.factors);
      adamw_step(b, {});
      EXPECT(largest_difference(values(b.factors), first) < 1e-12 * norm);
      parts[1].back().begin -= 8;
      EXPECT(contains(error_of([&] { adamw_squares(b, parts[1]); }), "multiples of 64"));
    }
}

TEST_CASE("adamw: bfloat16 gradients of the wrong dtype or size are errors") {
  Context context(test_device());
  AdamWBuffers b;
  b.p = zeros(context, {256}), b.m = zeros_like(b.p), b.v = zeros_like(b.p);
  b.partial = zeros(context, {2}, DType::kFloat64),
  b.factors = zeros(context, {adamw_factor::kCount}, DType::kFloat64);
  b.ticket = zeros(context, {1}, DType::kInt32);
  b.low = zeros(context, {128}), b.g = zeros(context, {128});
  EXPECT(contains(error_of([&] { adamw_step(b, {}); }), "bfloat16"));
  b.low = zeros(context, {128}, DType::kBFloat16), b.g = zeros(context, {256});
  EXPECT(contains(error_of([&] { adamw_step(b, {}); }), "gradients [128]"));
  b.low = zeros(context, {96}, DType::kBFloat16), b.g = zeros(context, {160});
  EXPECT(contains(error_of([&] { adamw_step(b, {}); }), "multiples of 64"));
}

TEST_CASE("adamw: options that would make every weight no number are errors") {
  Bench bench(DType::kFloat32, false);
  const auto error = [&](auto&& change) {
    AdamWOptions o;
    change(o);
    return error_of([&] { AdamW(bench.set, o); });
  };
  EXPECT(error([](AdamWOptions&) {}) == "");
  EXPECT(error([](AdamWOptions& o) { o.learning_rate = 0, o.clip = 0, o.beta1 = 0; }) == "");
  EXPECT(contains(error([](AdamWOptions& o) { o.learning_rate = NAN; }), "AdamW: wants a learning rate"));
  EXPECT(contains(error([](AdamWOptions& o) { o.learning_rate = -1; }), "0 or more, got -1"));
  EXPECT(contains(error([](AdamWOptions& o) { o.weight_decay = INFINITY; }), "AdamW: wants"));
  EXPECT(contains(error([](AdamWOptions& o) { o.beta2 = 1; }), "betas in [0, 1), got 0.9 and 1"));
  EXPECT(contains(error([](AdamWOptions& o) { o.warmup_steps = -1; }), "got -1 to warm up"));
  ParameterSet grouped, unready;
  grouped.add("a", {3}, Init::zero(), false);
  grouped.set_rate("a", 0.1);
  grouped.materialise(bench.context, 1);
  AdamWOptions o;
  o.learning_rate = 0;
  EXPECT(contains(error_of([&] { AdamW(grouped, o); }), "in parts of the learning rate, which is 0"));
  EXPECT(contains(error_of([&] { AdamW(unready, {}); }), "behind materialise()"));
}

TEST_CASE("adamw: a gradient that is not finite changes nothing and is counted") {
  Bench bench(DType::kFloat32, true);
  AdamW optimiser(bench.set, {});
  const std::vector<double> before = values(bench.set.values());
  for (const double bad : {NAN, INFINITY}) {
    bench.gradient(0, 1, bad);
    optimiser.step();
  }
  EXPECT(optimiser.report().skipped == 2);
  EXPECT(values(bench.set.values()) == before);
  EXPECT(largest(values(optimiser.m())) == 0);
}

TEST_CASE("adamw: step() on parameters that nothing reached only decays what decays") {
  Bench bench(DType::kFloat64, false);
  AdamWOptions o;
  o.learning_rate = 0.5, o.weight_decay = 0.1;
  AdamW optimiser(bench.set, o);
  fill(bench.set.gradients(), 1e9);  // stale: must not be used
  const std::vector<double> w = values(bench.w->var.value()), b = values(bench.b->var.value());
  optimiser.step();
  const std::vector<double> after = values(bench.w->var.value());
  for (size_t i = 0; i < w.size(); i += 997) EXPECT(std::abs(after[i] - 0.95 * w[i]) < 1e-15);
  EXPECT(values(bench.b->var.value()) == b);
}

TEST_CASE("adamw: schedule") {
  AdamWOptions o;
  o.learning_rate = 1, o.warmup_steps = 4, o.total_steps = 12;
  EXPECT(scheduled_rate(o, 0) == 0);
  EXPECT(scheduled_rate(o, 2) == 0.5);
  EXPECT(scheduled_rate(o, 4) == 1);
  EXPECT(scheduled_rate(o, 10) == 0.25);
  EXPECT(scheduled_rate(o, 12) == 0);
  EXPECT(scheduled_rate(o, 100) == 0);
  o.total_steps = 0;
  EXPECT(scheduled_rate(o, 100) == 1);
}

}  // namespace
}  // namespace glia::test
