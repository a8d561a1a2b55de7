// What single routers do beyond the contract that tests/moe/moe_layer_test.cpp checks of all.
#include <set>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/routing/noise/jitter.h"
#include "engine/ops/routing/noise/random_rows.h"
#include "engine/ops/routing/noisy_load.h"
#include "engine/ops/routing/sparsity_weight.h"
#include "moe/cost.h"
#include "tests/moe/bench.h"

namespace glia::test {
namespace {

OptionValues with(const char* name, OptionValue value) {
  OptionValues own;
  own.set(name, std::move(value));
  return own;
}

TEST_CASE(
    "random rows: a micro-batch draws its rows of the whole, an id always the same, each step and purpose anew") {
  Context context(test_device());
  const RandomKey key = context.random_key(purpose::kRouterNoise);
  const auto draw = [&](int64_t rows, int64_t columns, RandomKind kind, const RandomKey& k) {
    return values(random_rows(context, rows, columns, DType::kFloat64, kind, k));
  };
  for (const RandomKind kind : {RandomKind::kUniform, RandomKind::kNormal})
    for (const int64_t columns : {3, 8}) {
      const std::vector<double> whole = draw(6, columns, kind, key);
      const Tensor before = from_vector<int32_t>(context, {4}, {1});
      RandomKey part = key;
      part.first_row = static_cast<const uint32_t*>(before.raw());
      EXPECT(draw(2, columns, kind, part) == std::vector<double>(whole.end() - 2 * columns, whole.end()));
      EXPECT(draw(6, columns, kind, context.random_key(purpose::kRouterNoise + 1)) != whole);
      const Tensor ids = from_vector<int32_t>(context, {5, 0, 5}, {3});
      const std::vector<double> by_id = values(random_rows_of(ids, columns, DType::kFloat64, kind, key));
      for (int64_t n = 0; n < columns; ++n) {
        EXPECT(by_id[size_t(n)] == whole[size_t(5 * columns + n)]);
        EXPECT(by_id[size_t(columns + n)] == whole[size_t(n)]);
        EXPECT(by_id[size_t(2 * columns + n)] == by_id[size_t(n)]);
      }
      context.set_step(1);
      EXPECT(draw(6, columns, kind, key) != whole);
      context.set_step(0);
    }
  const std::vector<double> u = draw(1000, 4, RandomKind::kUniform, key),
                            z = draw(1000, 4, RandomKind::kNormal, key);
  const auto mean_of = [](const std::vector<double>& x, int power) {
    double sum = 0;
    for (const double v : x) sum += std::pow(v, power) / static_cast<double>(x.size());
    return sum;
  };
  EXPECT(std::abs(mean_of(u, 1) - 0.5) < 0.02);
  EXPECT(std::abs(mean_of(u, 2) - 1.0 / 3) < 0.02);
  EXPECT(std::abs(mean_of(z, 1)) < 0.06);
  EXPECT(std::abs(mean_of(z, 2) - 1) < 0.1);
}

TEST_CASE(
    "jitter: rows are multiplied by the numbers of random_rows, those of a micro-batch by their rows' of the whole") {
  Context context(test_device());
  const RandomKey key = context.random_key(purpose::kRouterNoise);
  for (const int64_t columns : {6, 8})
    for (const bool part : {false, true}) {
      RandomKey k = key;
      const Tensor before = from_vector<int32_t>(context, {4}, {1});
      if (part) k.first_row = static_cast<const uint32_t*>(before.raw());
      const std::vector<double> u =
          values(random_rows(context, 3, columns, DType::kFloat64, RandomKind::kUniform, k));
      const Tensor ones = full(context, {3, columns}, 2, DType::kFloat64);
      const std::vector<double> y = values(jitter(ones, 0.25, k).value());
      for (size_t i = 0; i < u.size(); ++i) EXPECT(std::abs(y[i] - 2 * (0.75 + 0.5 * u[i])) < 1e-14);
    }
}

TEST_CASE(
    "noisy-top-k: the load is the chance to stay, or come, among the K largest when one's own noise is drawn anew") {
  Context context(test_device());
  constexpr size_t kRows = 9, kExperts = 5;
  const auto normal = [&](uint64_t seed, double std) {
    return random_normal(context, {kRows, kExperts}, std, seed, purpose::kTest, 0, DType::kFloat64);
  };
  const Tensor clean = normal(1, 1), std = add_scalar(square(normal(2, 1)), 0.1).value(), noisy = normal(3, 2);
  for (const size_t k : {1, 2, 4}) {
    const std::vector<double> p = values(noisy_load(clean, std, noisy, static_cast<int64_t>(k)).value()),
                              c = values(clean), s = values(std), h = values(noisy);
    for (size_t i = 0; i < p.size(); ++i) {
      std::vector<double> others;
      for (size_t e = 0; e < kExperts; ++e)
        if (e != i % kExperts) others.push_back(h[i / kExperts * kExperts + e]);
      std::sort(others.rbegin(), others.rend());
      EXPECT(std::abs(p[i] - 0.5 * std::erfc(-(c[i] - others[k - 1]) / s[i] / std::sqrt(2.0))) < 1e-12);
    }
  }
}

TEST_CASE(
    "noisy-top-k: the noise is normal, as wide as the token says and 0.01 at least, and the load is counted from the "
    "logits without it") {
  constexpr int32_t kTokens = 4000;
  constexpr size_t kExperts = 4, kTop = 2;
  Bench bench("noisy-top-k", kExperts, kTop, {kTokens});
  const Parameter& bias = bench.set.get("l.moe.router.noise.bias");
  Tensor(bias.var.value()).copy_from(from_vector<double>(bench.context, {-40, 0.5, -1, 2}, bias.shape));
  const std::vector<double> x = values(bench.input()),
                            clean = oracle_linear(x, bench.weights("l.moe.router.token.weight"),
                                                  bench.weights("l.moe.router.token.bias")),
                            width = oracle_linear(x, bench.weights("l.moe.router.noise.weight"),
                                                  bench.weights("l.moe.router.noise.bias"));
  const Routing r = bench.run(bench.input(), false, true).routing;
  const std::vector<double> noisy = values(r.scores.value());
  std::vector<double> mean(kExperts), square(kExperts), load(kExperts);
  for (size_t t = 0; t < kTokens; ++t)
    for (size_t e = 0; e < kExperts; ++e) {
      const size_t i = t * kExperts + e;
      const double std = std::log1p(std::exp(width[i])) + 0.01, z = (noisy[i] - clean[i]) / std;
      mean[e] += z / kTokens, square[e] += z * z / kTokens;
      std::vector<double> others;
      for (size_t o = 0; o < kExperts; ++o)
        if (o != e) others.push_back(noisy[t * kExperts + o]);
      std::sort(others.rbegin(), others.rend());
      load[e] += 0.5 * std::erfc((others[kTop - 1] - clean[i]) / std / std::sqrt(2.0));
    }
  for (size_t e = 0; e < kExperts; ++e) {
    INFO("expert ", e);
    EXPECT(std::abs(mean[e]) < 0.08);  // five deviations
    EXPECT(std::abs(square[e] - 1) < 0.12);
  }
  const double even = std::accumulate(load.begin(), load.end(), 0.0) / kExperts;
  double variance = 0;
  for (const double l : load) variance += (l - even) * (l - even) / (kExperts - 1);
  REQUIRE(r.losses[1].names[0] == "load");
  EXPECT(values(r.losses[1].values.value())[0] == doctest::Approx(variance / (even * even)).epsilon(1e-6));
}

TEST_CASE("noisy-top-k: noise in training, anew in each step, none in evaluation; losses count real rows") {
  Bench bench("noisy-top-k", 4, 2, {5, 2, 7}), longer("noisy-top-k", 4, 2, {5, 2, 7}, 19);
  const auto scores = [](Bench& b, bool training) {
    std::vector<double> all = values(b.run(b.input(), false, training).routing.scores.value());
    all.resize(14 * 4);
    return all;
  };
  const std::vector<double> evaluated = scores(bench, false), trained = scores(bench, true);
  EXPECT(trained != evaluated);
  EXPECT(scores(bench, true) == trained);
  bench.context.set_step(3);
  EXPECT(scores(bench, true) != trained);
  bench.context.set_step(0);
  const Routing a = bench.run(bench.input(), false, true).routing,
                b = longer.run(longer.input(), false, true).routing;
  for (size_t i = 0; i < 2; ++i) {
    EXPECT(a.losses[i].names[0] == (i == 0 ? "importance" : "load"));
    EXPECT(std::abs(values(a.losses[i].values.value())[0] - values(b.losses[i].values.value())[0]) < 1e-13);
  }
}

TEST_CASE(
    "switch: the gate is the largest probability; jitter moves the router's input in training and no more than it may") {
  Bench still("switch", 4, 1, {5, 2}, 0, with("jitter", 0.0)),
      moved("switch", 4, 1, {5, 2}, 0, with("jitter", 0.5));
  const auto scores = [](Bench& b, bool training) {
    return values(b.run(b.input(), false, training).routing.scores.value());
  };
  EXPECT(scores(still, true) == scores(still, false));
  EXPECT(scores(moved, false) == scores(still, false));
  const std::vector<double> w = moved.weights("l.moe.router.token.weight"), in = values(moved.input()),
                            before = scores(still, false), after = scores(moved, true);
  EXPECT(after != before);
  for (size_t i = 0; i < after.size(); ++i) {
    double most = 0;
    for (size_t h = 0; h < kHidden; ++h) most += 0.5 * std::abs(w[i % 4 * kHidden + h] * in[i / 4 * kHidden + h]);
    EXPECT(std::abs(after[i] - before[i]) <= most);
  }
  const Routing r = still.run(still.input()).routing;
  const std::vector<double> gates = values(r.gates.value()), l = values(r.scores.value());
  for (size_t t = 0; t < gates.size(); ++t) {
    const std::vector<double> p = oracle_softmax(&l[t * 4], 4);
    EXPECT(std::abs(gates[t] - *std::max_element(p.begin(), p.end())) < 1e-14);
  }
}

TEST_CASE(
    "deepseek-v3: experts come from the kept groups, which are those whose two best add up to most; gates sum to scale") {
  OptionValues own = with("groups", int64_t{4});
  own.set("gate-scale", 2.5);
  own.set("kept-groups", int64_t{2});
  Bench bench("deepseek-v3", 12, 3, {5, 8}, 15, own);
  const Routing r = bench.run(bench.input()).routing;
  const std::vector<double> l = values(r.scores.value()), bias = bench.weights("l.moe.router.load_bias"),
                            gates = values(r.gates.value());
  const auto experts = r.experts.to_vector<int32_t>();
  for (size_t t = 0; t < 13; ++t) {
    std::vector<double> s(12), choice(12), group(4);
    for (size_t e = 0; e < 12; ++e) s[e] = 1 / (1 + std::exp(-l[t * 12 + e])), choice[e] = s[e] + bias[e];
    for (size_t g = 0; g < 4; ++g) {
      const std::vector<int32_t> order = oracle_order(&choice[g * 3], 3);
      group[g] = choice[g * 3 + size_t(order[0])] + choice[g * 3 + size_t(order[1])];
    }
    const std::vector<int32_t> best = oracle_order(group.data(), 4);
    for (size_t e = 0; e < 12; ++e)
      if (int32_t(e) / 3 != best[0] && int32_t(e) / 3 != best[1]) choice[e] = -INFINITY;
    const std::vector<int32_t> order = oracle_order(choice.data(), 12);
    double sum = 0;
    for (size_t k = 0; k < 3; ++k) sum += s[size_t(order[k])];
    for (size_t k = 0; k < 3; ++k) {
      EXPECT(experts[t * 3 + k] == order[k]);
      EXPECT(std::abs(gates[t * 3 + k] - 2.5 * s[size_t(order[k])] / sum) < 1e-13);
    }
  }
}

TEST_CASE(
    "remoe: one weight for all layers, larger after a step with too many active experts on the mean, else smaller") {
  Context context(test_device());
  const auto vector = [&](std::vector<double> v) {
    return from_vector<double>(context, v, {static_cast<int64_t>(v.size())});
  };
  const Tensor weight = vector({1}), progress = vector({0, 0, 0});
  const Tensor many = vector({8, 6, 4, 2}), few = vector({1, 1, 0, 0}),
               tokens = vector({10});  // shares 0.5 and 0.05
  const auto step = [&](std::initializer_list<Tensor> layers) {
    bool first = true;
    for (const Tensor& counts : layers)
      update_sparsity_weight(weight, progress, counts, tokens, 0.25, 2, first), first = false;
    return weight.item();
  };
  EXPECT(step({many, few, many}) == 2);  // mean 0.35
  EXPECT(step({few, few, many}) == 1);   // mean 0.2, though the last layer alone has more
  EXPECT(step({many}) == 2);
  EXPECT(step({few}) == 1);

  ModelConfig config = tiny_config("remoe");
  Model model(context, config, 11);
  StepRoutings routings;
  const Model::Output out = model.forward(tiny_batch(context, {6, 3, 9}, config.bert), true);
  double active = 0;
  for (const Routing& r : out.routings)
    for (const int32_t e : r.experts.to_vector<int32_t>()) active += e >= 0;
  routings.add(out.routings);
  model.after_step(routings);
  EXPECT(std::abs(model.router_state()[0].value.item() - (active / (2 * 18 * 4) > 0.5 ? 1.2 : 1 / 1.2)) < 1e-12);
}

TEST_CASE(
    "hash: an id's experts are its own, different ones, the same whatever the text and the run's seed; loads even out") {
  Context context(test_device(), 7), other(test_device(), 8);
  constexpr int64_t kIds = 4000;
  std::vector<int32_t> ids(kIds);
  std::iota(ids.begin(), ids.end(), 0);
  const auto experts_of = [&](Context& c, int64_t seed) {
    ParameterSet set;
    RouterOptions o{kHidden, 8, 2};
    o.own.set("hash-seed", seed);
    const auto router = make_router("hash", set, "r", o);
    const Sequences q = make_sequences(c, {kIds}), first = make_sequences(c, {1});
    Pass pass{q, first};
    pass.ids = from_vector(c, ids, {kIds});
    return router->route({zeros(c, {kIds, kHidden}, DType::kFloat32), pass}).experts.to_vector<int32_t>();
  };
  const std::vector<int32_t> experts = experts_of(context, 0);
  EXPECT(experts == experts_of(other, 0));
  EXPECT(experts != experts_of(context, 1));
  std::vector<int> load(8);
  for (size_t i = 0; i < experts.size(); i += 2) {
    EXPECT(experts[i] != experts[i + 1]);
    ++load[size_t(experts[i])], ++load[size_t(experts[i + 1])];
  }
  for (const int n : load) EXPECT(std::abs(n - 1000) < 150);
}

TEST_CASE("routers: options that cannot go together are refused by name") {
  RouterOptions o{kHidden, 8, 2};
  const auto refused = [&](const char* router, std::vector<std::pair<const char*, OptionValue>> own, int64_t k) {
    ParameterSet set;
    RouterOptions wrong = o;
    wrong.top_k = k;
    for (const auto& [name, value] : own) wrong.own.set(name, value);
    return error_of([&] { make_router(router, set, "r", wrong); });
  };
  EXPECT(contains(refused("deepseek-v3", {{"groups", int64_t{3}}}, 2), "--groups that divide the 8 experts"));
  EXPECT(contains(refused("deepseek-v3", {{"groups", int64_t{2}}, {"kept-groups", int64_t{4}}}, 2),
                  "2 groups and 4 kept"));
  EXPECT(contains(refused("deepseek-v3", {{"groups", int64_t{8}}}, 2), "at least top_k 2"));
  EXPECT(contains(refused("scored", {{"normalise-gates", true}}, 1), "--normalise-gates off"));
  for (const RouterRow& row : router_registry())
    EXPECT(error_of([&] { loss_weights(row, with("simbal-loss", 0.1)); }).empty() == row.traits.linear);
}

TEST_CASE(
    "remoe: after a step the loss's weight is times the factor where more than K of E experts are active, else over "
    "it") {
  for (const int64_t top_k : {1, 2, 3}) {
    Bench bench("remoe", 4, top_k, {40, 23}, 70, with("sparsity-factor", 1.5));
    for (State& s : bench.set.states())
      s.value.copy_from(full(bench.context, s.shape, s.name == "moe.remoe.growth" ? 2 : 0, DType::kFloat64));
    const Routing r = bench.run(bench.input(), false, true).routing;
    StepStatistics statistics;
    statistics.add(r.statistics);
    bench.layer->after_step(statistics);
    const std::vector<double> l = values(r.scores.value());
    const auto active = std::count_if(l.begin(), l.begin() + 63 * 4, [](double x) { return x > 0; });
    REQUIRE((active > 63 && active < 3 * 63));  // between one expert a token and three
    EXPECT(bench.weights("moe.remoe.growth")[0] ==
           doctest::Approx(active > 63 * top_k ? 2 * 1.5 : 2 / 1.5).epsilon(1e-12));
  }
}

TEST_CASE(
    "glider: after a step an expert has served memory · before + Σ over sequences of its mean P times their mean row") {
  Bench bench("glider", 4, 2, {5, 1, 7}, 15, with("glider-memory", 0.75));
  std::vector<double> served = bench.weights("l.moe.router.served");
  const std::vector<double> x = values(bench.input());
  const Routing r = bench.run(bench.input(), false, true).routing;
  StepStatistics statistics;
  statistics.add(r.statistics);
  bench.layer->after_step(statistics);
  const std::vector<double> l = values(r.scores.value());
  for (double& s : served) s *= 0.75;
  size_t start = 0;
  for (const size_t length : {5, 1, 7}) {
    std::vector<double> p(4), mean(kHidden);
    for (size_t t = start; t < start + length; ++t) {
      const std::vector<double> of_token = oracle_softmax(&l[t * 4], 4);
      for (size_t e = 0; e < 4; ++e) p[e] += of_token[e] / static_cast<double>(length);
      for (size_t h = 0; h < kHidden; ++h) mean[h] += x[t * kHidden + h] / static_cast<double>(length);
    }
    for (size_t e = 0; e < 4; ++e)
      for (size_t h = 0; h < kHidden; ++h) served[e * kHidden + h] += p[e] * mean[h];
    start += length;
  }
  EXPECT(largest_difference(bench.weights("l.moe.router.served"), served) < 1e-12);
}

TEST_CASE("thor: in training a sequence's label is asked of the largest numbers of its rows, by cross-entropy") {
  const std::vector<int32_t> lengths = {5, 1, 7};
  Bench bench("thor", 4, 2, lengths, 15);
  const std::vector<double> x = values(bench.input());
  const Routing r = bench.run(bench.input(), false, true).routing;
  double loss = 0;
  size_t start = 0;
  for (size_t b = 0; b < 3; ++b) {
    std::vector<double> largest(kHidden, -INFINITY);
    for (size_t t = start; t < start + static_cast<size_t>(lengths[b]); ++t)
      for (size_t h = 0; h < kHidden; ++h) largest[h] = std::max(largest[h], x[t * kHidden + h]);
    start += static_cast<size_t>(lengths[b]);
    const std::vector<double> task =
        oracle_linear(largest, bench.weights("l.moe.router.task.weight"), bench.weights("l.moe.router.task.bias"));
    loss -= std::log(oracle_softmax(task.data(), static_cast<int64_t>(task.size()))[b]) / 3;  // labels 0, 1, 2
  }
  const auto at = std::ranges::find_if(r.losses, [](const AuxiliaryLosses& a) { return a.names[0] == "task"; });
  REQUIRE((at != r.losses.end()));
  EXPECT(std::abs(values(at->values.value())[0] - loss) < 1e-12);
}

TEST_CASE("moe-plus-plus: a layer hands on its logits with what the layers before added to them") {
  Bench bench("moe-plus-plus");
  const Tensor x = bench.input(),
               before = random_normal(bench.context, {13, 8}, 1, 3, purpose::kTest, 2, DType::kFloat64);
  Pass pass{bench.sequences, bench.first, false, DType::kFloat64, 0};
  pass.previous_scores = before;
  const Routing r = bench.layer->forward(x, pass, false).routing;
  std::vector<double> expected = oracle_linear(values(x), bench.weights("l.moe.router.token.weight"),
                                               bench.weights("l.moe.router.token.bias"));
  const std::vector<double> g = bench.weights("l.moe.router.before"), l = values(before);
  for (size_t t = 0; t < 13; ++t)
    for (size_t c = 0; c < 8; ++c)
      for (size_t from = 0; from < 8; ++from) expected[t * 8 + c] += g[c * 8 + from] * l[t * 8 + from];
  EXPECT(largest_difference(values(r.all_scores.value()), expected) < 1e-12);
}

TEST_CASE(
    "null-experts, moe-plus-plus: where loads are even a token has K E of the E experts and the other columns") {
  MoeConfig moe{"null-experts", 8, 4, 0, 0};
  EXPECT(expected_experts(moe) == 2);  // as many null columns as experts
  moe.options.set("null-experts", int64_t{4});
  EXPECT(std::abs(expected_experts(moe) - 8.0 / 3) < 1e-12);
  EXPECT(std::abs(expected_experts(MoeConfig{"moe-plus-plus", 8, 3, 0, 0}) - 2) < 1e-12);
}

TEST_CASE("routers: what their rows say they start from: zeros, or numbers of a spread of their own") {
  struct Start {
    const char *router, *parameter;
    double deviation;
  };
  constexpr double kGain = 0.32;
  for (const Start& s : {Start{"noisy-top-k", "token.weight", 0},
                         {"noisy-top-k", "noise.weight", 0},
                         {"x-moe", "embedding", kGain / std::sqrt(32.0)},
                         {"dselect-k", "bits.weight", 0.01},
                         {"moe-plus-plus", "constants", 1},
                         {"moe-plus-plus", "before", 0.02}}) {
    INFO(std::string(s.router), " ", std::string(s.parameter));
    Context context(test_device());
    ParameterSet set;
    RouterOptions o{64, 64, 2};
    o.init_std = 0.02;
    const auto router = make_router(s.router, set, "r", o);
    set.materialise(context, 5, DType::kFloat64);
    const Parameter& p = set.get(std::string("r.") + s.parameter);
    EXPECT(p.decay);
    double square = 0;
    const std::vector<double> start = values(p.var.value());
    for (const double v : start) square += v * v / static_cast<double>(start.size());
    EXPECT(std::abs(std::sqrt(square) - s.deviation) <=
           5 * s.deviation / std::sqrt(2 * static_cast<double>(start.size())));
  }
}

}  // namespace
}  // namespace glia::test
