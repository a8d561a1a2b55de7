// What routers that even out their experts' loads do over steps, one by one.
#include <set>

#include "engine/ops/moe/choose.h"
#include "engine/ops/routing/keep.h"
#include "tests/moe/bench.h"

namespace glia::test {
namespace {

// A pretraining batch ends in them: it has room for as many sequences as its places could hold.
TEST_CASE("routers: empty sequences behind a full batch change neither outputs nor losses") {
  for (const RouterRow& row : router_registry())
    for (const bool training : {false, true}) {
      Bench full(row.name), ended(row.name);
      const int64_t count = full.sequences.count, more = 3;
      std::vector<int32_t> offsets = full.sequences.offsets.to_vector<int32_t>(),
                           first = full.sequences.first_rows.to_vector<int32_t>();
      offsets.resize(offsets.size() + more, offsets.back());
      first.resize(first.size() + more, -1);
      ended.sequences.count = count + more;
      ended.sequences.offsets = from_vector(ended.context, offsets, {count + more + 1});
      ended.sequences.first_rows = from_vector(ended.context, first, {count + more});
      ended.first = make_sequences(ended.context, std::vector<int32_t>(first.size(), 1));
      const FeedForward::Result a = full.run(full.input(), false, training),
                                b = ended.run(ended.input(), false, training);
      INFO(std::string(row.name), training ? " in training" : "");
      EXPECT(largest_difference(values(a.y.value()), values(b.y.value())) < 1e-13);
      REQUIRE(a.routing.losses.size() == b.routing.losses.size());
      for (size_t i = 0; i < a.routing.losses.size(); ++i)
        EXPECT(largest_difference(values(a.routing.losses[i].values.value()),
                                  values(b.routing.losses[i].values.value())) < 1e-12);
    }
}

TEST_CASE("loss-free: bias goes down by u where the load of the whole step is above its mean, up where below") {
  Context context(test_device());
  const Tensor bias = from_vector<double>(context, {0, 1, 0, 0}, {4}),
               counts = from_vector<double>(context, {3, 5, 4, 4}, {4});
  update_load_bias(bias, counts, 0.25);
  EXPECT(values(bias) == std::vector<double>{0.25, 0.75, 0, 0});
  ModelConfig config = tiny_config("loss-free");
  config.moe.options.set("bias-rate", 0.5);
  Model model(context, config, 11);
  StepRoutings step;
  std::vector<double> load(4);
  for (const uint64_t seed : {1, 2}) {
    const Model::Output out = model.forward(tiny_batch(context, {6, 3, 9}, config.bert, seed), true);
    for (const int32_t e : out.routings[1].experts.to_vector<int32_t>()) load[static_cast<size_t>(e)] += 1;
    step.add(out.routings);
  }
  EXPECT(values(step.layers()[1]["load"]) == load);
  model.after_step(step);
  const std::vector<double> after = values(model.router_state()[1].value);
  for (size_t e = 0; e < 4; ++e) EXPECT(after[e] == (load[e] > 9 * 2 ? -0.5 : load[e] < 9 * 2 ? 0.5 : 0));
}

// Loads of the experts over real rows.
std::vector<double> loads(const Routing& r) {
  return values(expert_counts(r.experts, r.n_experts, DType::kFloat64));
}

double spread(const std::vector<double>& x) {
  return *std::max_element(x.begin(), x.end()) - *std::min_element(x.begin(), x.end());
}

TEST_CASE("quantile, sinkhorn, expert-choice: an uneven router's loads even out") {
  for (const char* name : {"quantile", "sinkhorn", "expert-choice"}) {
    INFO(name);
    Bench bench(name, 4, 2, {40, 40});
    for (const Parameter& p : bench.set.all())
      if (p.name == "l.moe.router.token.bias")
        Tensor(p.var.value()).copy_from(from_vector<double>(bench.context, {1.5, 0.5, -0.5, -1.5}, {4}));
    for (State& s : bench.set.states()) s.value.zero();
    Bench plain(plain_router(), 4, 2, {40, 40});
    for (const char* part : {"weight", "bias"}) {
      const std::string at = std::string("l.moe.router.token.") + part;
      Tensor(plain.set.get(at).var.value())
          .copy_from(from_vector<double>(plain.context, bench.weights(at), plain.set.get(at).shape));
    }
    const double uneven = spread(loads(plain.run(plain.input()).routing));
    double even = 0;
    for (int step = 0; step < 20; ++step) {
      const Routing r = bench.run(bench.input(), false, true).routing;
      even = spread(loads(r));
      StepStatistics statistics;
      statistics.add(r.statistics);
      bench.layer->after_step(statistics);
    }
    EXPECT(uneven > 20);
    EXPECT(even < uneven / 3);
  }
}

TEST_CASE("expert-threshold: the batch's best at first, then the moving quantile, which evaluation holds still") {
  OptionValues own;
  own.set("threshold-warmup", int64_t{2});
  own.set("threshold-memory", 0.5);
  Bench bench("expert-threshold", 4, 2, {6, 6}, 0, own);
  for (State& s : bench.set.states()) s.value.zero();
  const auto step = [&] {
    const Routing r = bench.run(bench.input(), false, true).routing;
    StepStatistics statistics;
    statistics.add(r.statistics);
    bench.layer->after_step(statistics);
    return loads(r);
  };
  const std::vector<double> half(4, 6);  // T K / E
  EXPECT(step() == half);
  EXPECT(step() == half);
  EXPECT(bench.weights("l.moe.router.steps") == std::vector<double>{2});
  // The same batch again: its quantile is the moving mean, up to rounding at the very last token that each expert takes.
  for (const double n : step()) EXPECT((n == 6 || n == 5));
  const std::vector<double> before = loads(bench.run(bench.input()).routing);
  EXPECT(before == loads(bench.run(bench.input()).routing));
}

// What after_step() is told when this batch was all of the step.
Routing one_step(Bench& bench, const Tensor& x) {
  const Routing r = bench.run(x, false, true).routing;
  StepStatistics statistics;
  statistics.add(r.statistics);
  bench.layer->after_step(statistics);
  return r;
}

// Which experts each token has.     → [T, 4]
std::vector<bool> chosen_of(const Routing& r) {
  const auto experts = r.experts.to_vector<int32_t>();
  const size_t slots = static_cast<size_t>(r.experts.size(1));
  std::vector<bool> chosen(experts.size() / slots * 4);
  for (size_t i = 0; i < experts.size(); ++i)
    if (experts[i] >= 0) chosen[i / slots * 4 + static_cast<size_t>(experts[i])] = true;
  return chosen;
}

std::vector<double> column_of(const std::vector<double>& x, size_t e) {  // of [T, 4], largest first
  std::vector<double> column;
  for (size_t i = e; i < x.size(); i += 4) column.push_back(x[i]);
  std::sort(column.rbegin(), column.rend());
  return column;
}

TEST_CASE(
    "expert-threshold: after n steps it is Σ mⁿ⁻ⁱ q_i / Σ mⁿ⁻ⁱ of the batches' T K / E-th largest logits, and chooses after "
    "the warm-up's last step") {
  OptionValues own;
  own.set("threshold-memory", 0.9);
  own.set("threshold-warmup", int64_t{2});
  Bench bench("expert-threshold", 4, 2, {6, 6}, 0, own);
  for (State& s : bench.set.states()) s.value.zero();
  std::vector<double> sum(4);
  double weights = 0;
  for (int n = 0; n < 5; ++n) {
    const std::vector<double> before = bench.weights("l.moe.router.threshold");
    const Routing r =
        one_step(bench, random_normal(bench.context, {12, kHidden}, 1 + n, 40 + static_cast<uint64_t>(n),
                                      purpose::kTest, 0, DType::kFloat64));
    const std::vector<double> l = values(r.scores.value()), after = bench.weights("l.moe.router.threshold");
    const std::vector<bool> chosen = chosen_of(r);
    weights = 0.9 * weights + 1;
    for (size_t e = 0; e < 4; ++e) {
      const double best = column_of(l, e)[5];  // 12 tokens · 2 / 4 experts
      sum[e] = 0.9 * sum[e] + best;
      EXPECT(after[e] == doctest::Approx(sum[e] / weights).epsilon(1e-9));
      for (size_t t = 0; t < 12; ++t) EXPECT(chosen[t * 4 + e] == (l[t * 4 + e] >= (n < 2 ? best : before[e])));
    }
  }
}

TEST_CASE(
    "quantile: a step's prices are the (⌊T K / E⌋ + 1)-th largest l − α, less their mean, α of the prices before") {
  Bench bench("quantile", 4, 2, {5, 1, 7}, 17);  // ⌊13 · 2 / 4⌋ = 6, and a tail that is offered to nobody
  for (State& s : bench.set.states()) s.value.zero();
  std::vector<double> price(4);
  for (int n = 0; n < 3; ++n) {
    const Routing r = one_step(bench, random_normal(bench.context, {17, kHidden}, 1, 50 + static_cast<uint64_t>(n),
                                                    purpose::kTest, 0, DType::kFloat64));
    std::vector<double> surplus = values(r.scores.value()), next;
    surplus.resize(13 * 4);
    for (size_t t = 0; t < 13; ++t) {
      std::vector<double> net;
      for (size_t e = 0; e < 4; ++e) net.push_back(surplus[t * 4 + e] - price[e]);
      std::sort(net.rbegin(), net.rend());
      for (size_t e = 0; e < 4; ++e) surplus[t * 4 + e] -= net[2];
    }
    for (size_t e = 0; e < 4; ++e) next.push_back(column_of(surplus, e)[6]);
    for (size_t e = 0; e < 4; ++e) price[e] = next[e] - (next[0] + next[1] + next[2] + next[3]) / 4;
    EXPECT(largest_difference(bench.weights("l.moe.router.price"), price) < 1e-12);
    EXPECT(spread(price) > 1e-3);
  }
}

TEST_CASE("emo: in training each sequence has a pool of its own size, the tokens stay in it") {
  Bench bench("emo", 8, 2, {9, 9, 9, 9});
  const Routing r = bench.run(bench.input(), false, true).routing;
  const auto experts = r.experts.to_vector<int32_t>();
  std::vector<size_t> sizes;
  for (size_t b = 0; b < 4; ++b)
    sizes.push_back(std::set<int32_t>(experts.begin() + int(b * 18), experts.begin() + int(b * 18 + 18)).size());
  EXPECT(*std::max_element(sizes.begin(), sizes.end()) > 2);

  OptionValues two;
  two.set("pool-size", int64_t{2});
  Bench evaluated("emo", 8, 2, {9, 9}, 0, two);
  const auto chosen = evaluated.run(evaluated.input()).routing.experts.to_vector<int32_t>();
  for (size_t b = 0; b < 2; ++b)
    EXPECT(std::set<int32_t>(chosen.begin() + int(b * 18), chosen.begin() + int(b * 18 + 18)).size() == 2);
}

TEST_CASE(
    "emo: a pool's size is drawn evenly from the fewest to all, and its experts are those that the sequence wants most") {
  OptionValues own;
  own.set("pool-fewest", int64_t{3});
  constexpr size_t kSequences = 300, kLength = 3;
  Bench bench("emo", 8, 2, std::vector<int32_t>(kSequences, kLength), 0, own);
  const Routing r = bench.run(bench.input(), false, true).routing;
  const std::vector<double> l = values(r.scores.value()), gates = values(r.gates.value());
  const auto experts = r.experts.to_vector<int32_t>();
  std::vector<int> times(9);
  for (size_t b = 0; b < kSequences; ++b) {
    std::vector<double> wanted(8);
    for (size_t t = b * kLength; t < (b + 1) * kLength; ++t) {
      const std::vector<double> p = oracle_softmax(&l[t * 8], 8);
      for (size_t e = 0; e < 8; ++e) wanted[e] += p[e];
    }
    const std::vector<int32_t> order = oracle_order(wanted.data(), 8);
    // A gate is e^l over the pool's sum of them: which pool it was.
    const double* row = &l[b * kLength * 8];
    const double all = std::exp(row[experts[b * kLength * 2]]) / gates[b * kLength * 2];
    double sum = 0;
    size_t size = 0;
    while (size < 8 && std::abs(sum - all) > 1e-9 * all) sum += std::exp(row[order[size++]]);
    REQUIRE(std::abs(sum - all) <= 1e-9 * all);
    ++times[size];
  }
  for (size_t size = 0; size <= 8; ++size) {
    INFO(size);
    EXPECT(times[size] >= (size < 3 ? 0 : 50 - 30));  // 50 are expected, the deviation is 6.5
    EXPECT(times[size] <= (size < 3 ? 0 : 50 + 30));
  }
}

}  // namespace
}  // namespace glia::test
