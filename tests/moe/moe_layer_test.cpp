// Oracles of the MoE layer, in float64 without dropout unless a case says otherwise.
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/loss/z_loss.h"
#include "engine/ops/products/feed_forward.h"
#include "engine/ops/rows/rows.h"
#include "moe/model.h"
#include "tests/nn/helpers.h"

namespace glia::test {
namespace {

constexpr int64_t kHidden = 8, kFfn = 16;

// One MoE layer on its own with its pass.
struct Bench {
  Context context{test_device()};
  ParameterSet set;
  std::unique_ptr<MoeLayer> layer;
  Sequences sequences, first;

  explicit Bench(const std::string& router, int64_t experts = 4, int64_t top_k = 2,
                 const std::vector<int32_t>& lengths = {5, 1, 7}, int64_t capacity = 0) {
    BertConfig bert = tiny_config(router).bert;
    MoeConfig moe{router, experts, top_k, 0.1, 0.2, 0, false};
    layer = std::make_unique<MoeLayer>(set, "l", moe, bert, 0);
    set.materialise(context, 5, DType::kFloat64);
    // Biases other than 0, so that a forgotten one is seen.
    for (const Parameter& p : set.all())
      if (!p.decay) set.redraw(p, Init::normal(0.3), 5);
    sequences = make_sequences(context, lengths, capacity);
    first = make_sequences(context, std::vector<int32_t>(lengths.size(), 1));
  }
  Tensor input() {
    // Drawn row by row, so that a longer tail leaves the other rows as they are.
    return random_normal(context, {sequences.tokens, kHidden}, 1, 9, purpose::kTest, 0, DType::kFloat64);
  }
  FeedForward::Result run(const Var& x, bool first_rows_only = false) {
    const Pass pass{sequences, first, false, DType::kFloat64, 0};
    return layer->forward(x, pass, first_rows_only);
  }
  std::vector<double> weights(const std::string& name) { return values(set.get(name).var.value()); }
};

double erf_gelu(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }

// Every token on its own, from the formulas of docs/science.md 1.
std::vector<double> naive_layer(Bench& bench, const std::string& router, const std::vector<double>& x,
                                const std::vector<int32_t>& lengths, int64_t experts, int64_t top_k,
                                double* balance, double* energy) {
  const auto wr = bench.weights("l.moe.router.token.weight"), br = bench.weights("l.moe.router.token.bias");
  std::vector<double> wa, ba;
  if (router != "softmax")
    wa = bench.weights("l.moe.router.context.weight"), ba = bench.weights("l.moe.router.context.bias");
  const auto w1 = bench.weights("l.moe.experts.up.weight"), b1 = bench.weights("l.moe.experts.up.bias"),
             w2 = bench.weights("l.moe.experts.down.weight"), b2 = bench.weights("l.moe.experts.down.bias");
  std::vector<double> y(x.size(), 0.0), importance(static_cast<size_t>(experts));
  int64_t start = 0, real = 0;
  for (const int32_t n : lengths) {
    std::vector<double> context(kHidden);
    if (router == "astrocyte-meanpool") {
      for (int64_t t = 1; t < n; ++t)
        for (int64_t h = 0; h < kHidden; ++h) context[h] += x[(start + t) * kHidden + h] / (n - 1);
    } else {
      for (int64_t h = 0; h < kHidden; ++h) context[h] = x[start * kHidden + h];
    }
    for (int64_t t = start; t < start + n; ++t, ++real) {
      std::vector<double> logits(static_cast<size_t>(experts));
      for (int64_t e = 0; e < experts; ++e) {
        double r = br[e], c = router == "softmax" ? 0 : ba[e];
        for (int64_t h = 0; h < kHidden; ++h) r += wr[e * kHidden + h] * x[t * kHidden + h];
        if (router != "softmax")
          for (int64_t h = 0; h < kHidden; ++h) c += wa[e * kHidden + h] * context[h];
        logits[e] = router == "softmax" ? r : router == "astrocyte-hierarchical" ? r + c : r / (1 + std::exp(-c));
      }
      std::vector<int64_t> order(static_cast<size_t>(experts));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return logits[a] > logits[b]; });
      double total = 0;
      for (int64_t k = 0; k < top_k; ++k) total += std::exp(logits[order[k]]);
      for (int64_t k = 0; k < top_k; ++k) {
        const int64_t e = order[k];
        const double gate = std::exp(logits[e]) / total;
        importance[e] += gate;
        std::vector<double> hidden(kFfn);
        for (int64_t f = 0; f < kFfn; ++f) {
          double sum = b1[e * kFfn + f];
          for (int64_t h = 0; h < kHidden; ++h) sum += w1[(e * kFfn + f) * kHidden + h] * x[t * kHidden + h];
          hidden[f] = erf_gelu(sum);
        }
        for (int64_t h = 0; h < kHidden; ++h) {
          double sum = b2[e * kHidden + h];
          for (int64_t f = 0; f < kFfn; ++f) sum += w2[(e * kHidden + h) * kFfn + f] * hidden[f];
          y[t * kHidden + h] += gate * sum;
        }
      }
    }
    start += n;
  }
  double mean = 0, variance = 0;
  *energy = 0;
  for (const double i : importance) mean += i / static_cast<double>(experts);
  for (const double i : importance) {
    variance += (i - mean) * (i - mean) / static_cast<double>(experts - 1);
    *energy += (i / static_cast<double>(real)) * (i / static_cast<double>(real));
  }
  *balance = variance / (mean * mean + 1e-8);
  return y;
}

TEST_CASE(
    "moe: every router of the registry agrees with a loop over tokens, for K = 2 … E, with and without a tail") {
  for (const RouterRow& row : router_registry())
    for (const int64_t top_k : {2, 3, 4})
      for (const int64_t capacity : {0, 17}) {
        INFO(row.name);
        const std::vector<int32_t> lengths = {5, 2, 7};
        Bench bench(row.name, 4, top_k, lengths, capacity);
        const Tensor x = bench.input();
        const FeedForward::Result r = bench.run(x);
        double balance, energy;
        const std::vector<double> y = naive_layer(bench, row.name, values(x), lengths, 4, top_k, &balance, &energy);
        EXPECT(largest_difference(values(r.y.value()), y) < 1e-12);  // the tail's rows are 0
        REQUIRE(r.routing.losses.size() == 1);
        const std::vector<double> losses = values(r.routing.losses[0].values.value());
        EXPECT(std::abs(losses[0] - balance) < 1e-12);
        EXPECT(std::abs(losses[1] - energy) < 1e-12);
        // Energy is load balance: Σ (mean g)² = 1/E + (E − 1)/E² · CV² (docs/science.md 6.1).
        EXPECT(std::abs(losses[1] - (0.25 + 3.0 / 16 * losses[0])) < 1e-7);
      }
}

TEST_CASE(
    "moe: in the padded layout a router takes padding for tokens, in means and losses too (docs/science.md 6)") {
  for (const RouterRow& row : router_registry()) {
    INFO(row.name);
    Bench bench(row.name);
    const Tensor x = bench.input();
    const FeedForward::Result all = bench.run(x);
    bench.sequences = make_sequences(bench.context, {5, 1, 7}, 0, {2, 1, 4});  // which of the same rows are keys
    const FeedForward::Result padded = bench.run(x);
    EXPECT(values(padded.routing.gates.value()) == values(all.routing.gates.value()));
    EXPECT(values(padded.routing.losses[0].values.value()) == values(all.routing.losses[0].values.value()));
    EXPECT(values(padded.y.value()) == values(all.y.value()));
  }
}

// The dense FFN with expert e's weights.
Var dense_with(Bench& bench, const Var& x, int64_t e) {
  const auto part = [&](const char* name, Shape shape) {
    return Var(bench.set.get(std::string("l.moe.experts.") + name).var.value().rows(e, e + 1).reshape(shape));
  };
  return feed_forward(x, part("up.weight", {kFfn, kHidden}), part("up.bias", {kFfn}),
                      part("down.weight", {kHidden, kFfn}), part("down.bias", {kHidden}));
}

TEST_CASE("moe: one expert is the dense FFN, bit for bit") {
  Bench bench("softmax", 1, 1);
  const Tensor x = bench.input();
  EXPECT(values(bench.run(x).y.value()) == values(dense_with(bench, x, 0).value()));
}

TEST_CASE("moe: equal experts are the dense FFN") {
  for (const RouterRow& row : router_registry()) {
    Bench bench(row.name);
    for (const Parameter& p : bench.set.all())
      if (contains(p.name, "experts"))
        for (int64_t e = 1; e < 4; ++e) p.var.value().rows(e, e + 1).copy_from(p.var.value().rows(0, 1));
    const Tensor x = bench.input();
    EXPECT(largest_difference(values(bench.run(x).y.value()), values(dense_with(bench, x, 0).value())) < 1e-13);
  }
}

TEST_CASE("moe: permuting the experts permutes their numbers and nothing else") {
  const std::vector<int32_t> order = {2, 0, 3, 1};  // new expert e is old expert order[e]
  for (const RouterRow& row : router_registry()) {
    Bench before(row.name), after(row.name);
    const Tensor index = from_vector(after.context, order, {4});
    for (const Parameter& p : after.set.all()) {
      Tensor value = p.var.value();
      value.copy_from(gather_rows(value.clone().reshape({4, -1}), index).value().reshape(p.shape));
    }
    const FeedForward::Result a = before.run(before.input()), b = after.run(after.input());
    EXPECT(largest_difference(values(a.y.value()), values(b.y.value())) < 1e-13);
    EXPECT(largest_difference(values(a.routing.losses[0].values.value()),
                              values(b.routing.losses[0].values.value())) < 1e-13);
    const auto ea = a.routing.experts.to_vector<int32_t>(), eb = b.routing.experts.to_vector<int32_t>();
    bool same = true;
    for (size_t i = 0; i < ea.size(); ++i) same = same && ea[i] == order[static_cast<size_t>(eb[i])];
    EXPECT(same);
  }
}

TEST_CASE("moe: of equal logits the lower experts win") {
  Bench bench("softmax");
  for (const Parameter& p : bench.set.all())
    if (contains(p.name, "router")) Tensor(p.var.value()).zero();
  const FeedForward::Result r = bench.run(bench.input());
  const auto experts = r.routing.experts.to_vector<int32_t>();
  for (size_t i = 0; i < experts.size(); ++i) EXPECT(experts[i] == static_cast<int32_t>(i % 2));
  for (const double g : values(r.routing.gates.value())) EXPECT(g == 0.5);
}

TEST_CASE("moe: each loss alone reaches every router weight") {
  for (const RouterRow& row : router_registry())
    for (const int64_t which : {0, 1}) {
      Bench bench(row.name);
      const FeedForward::Result r = bench.run(bench.input());
      backward(reshape(rows(r.routing.losses[0].values, which, which + 1), {}));
      for (const Parameter& p : bench.set.all()) {
        INFO(row.name, " ", p.name);
        if (contains(p.name, "router")) {
          REQUIRE(p.var.grad().defined());
          EXPECT(largest(values(p.var.grad())) > 1e-9);
        } else {
          EXPECT((!p.var.grad().defined() || largest(values(p.var.grad())) == 0));
        }
      }
    }
}

TEST_CASE("moe: K = 1 is refused where the gates are renormalised; unknown routers and a wrong K are errors") {
  ParameterSet set;
  RouterOptions o;
  o.top_k = 1;
  for (const RouterRow& row : router_registry()) {
    ParameterSet fresh;
    std::string error = error_of([&] {
      if (make_router(row.name, fresh, "r", o)->renormalises())
        FAIL("a router that renormalises was made with K = 1");
    });
    EXPECT((error.empty() || contains(error, "gets no gradient")));
  }
  o.top_k = 9;
  EXPECT(contains(error_of([&] { make_router("softmax", set, "r", o); }), "1 <= top_k <= experts"));
  o.top_k = 2;
  EXPECT(contains(error_of([&] { make_router("sofmax", set, "r", o); }), "expected one of softmax, astrocyte"));
}

TEST_CASE("moe: z-loss is the mean squared logsumexp over real rows") {
  Context context(test_device());
  const Tensor logits = random_normal(context, {9, 5}, 3, 1, purpose::kTest, 0, DType::kFloat64);
  const Var loss = z_loss(logits, make_sequences(context, {3, 4}, 9));
  double expected = 0;
  for (const double z : values(logsumexp(logits.rows(0, 7)).value())) expected += z * z / 7;
  EXPECT(std::abs(values(loss.value())[0] - expected) < 1e-13);
}

}  // namespace
}  // namespace glia::test
