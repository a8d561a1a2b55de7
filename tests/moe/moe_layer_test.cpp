// Oracles of the MoE layer, in float64 without dropout unless a case says otherwise.
#include "moe/moe_layer.h"

#include <set>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/row_losses.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/loss/statistics.h"
#include "engine/ops/moe/choose.h"
#include "engine/ops/products/feed_forward.h"
#include "engine/ops/rows/reduce.h"
#include "engine/ops/rows/rows.h"
#include "moe/model.h"
#include "tests/moe/bench.h"

namespace glia::test {
namespace {

double erf_gelu(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }

// One token through one expert.
std::vector<double> naive_expert(const std::vector<double> (&w)[4], const double* x, size_t e) {
  std::vector<double> y(kHidden);
  for (size_t h = 0; h < kHidden; ++h) y[h] = w[3][e * kHidden + h];
  for (size_t f = 0; f < kFfn; ++f) {
    double sum = w[1][e * kFfn + f];
    for (size_t h = 0; h < kHidden; ++h) sum += w[0][(e * kFfn + f) * kHidden + h] * x[h];
    for (size_t h = 0; h < kHidden; ++h) y[h] += w[2][(e * kHidden + h) * kFfn + f] * erf_gelu(sum);
  }
  return y;
}

// What columns beside the experts got, in rows of sequences and 0 in the tail.
void compare_columns(const RouterRow& row, const Routing& r, const OracleRouting& expected) {
  EXPECT(r.other_choices.defined() == !row.columns.empty());
  if (row.columns.empty()) return;
  const auto whole = [&](std::vector<double> v) {
    v.resize(static_cast<size_t>(r.other_choices.numel()));
    return v;
  };
  EXPECT((r.other_choices.shape() == Shape{r.gates.size(0), static_cast<int64_t>(row.columns.size())}));
  EXPECT(values(r.other_choices) == whole(expected.other_choices));
  EXPECT(largest_difference(values(r.other_gates), whole(expected.other_gates)) < 1e-12);
}

// The layer and its losses against the router's oracle.
void compare_with_oracle(const RouterRow& row, const OptionValues& own, int64_t top_k, int64_t capacity) {
  INFO(std::string(row.name));
  const std::vector<int32_t> lengths = {5, 2, 7};
  Bench bench(row.name, 4, top_k, lengths, capacity, own);
  const std::vector<double> x = values(bench.input());
  const FeedForward::Result r = bench.run(bench.input());
  REQUIRE((row.oracle != nullptr));
  OracleRouting expected = oracle_of(bench, row, own, x, lengths, top_k);
  const auto experts = r.routing.experts.to_vector<int32_t>();
  const std::vector<double> gates = values(r.routing.gates.value());
  const std::vector<double> w[4] = {
      bench.weights("l.moe.experts.up.weight"), bench.weights("l.moe.experts.up.bias"),
      bench.weights("l.moe.experts.down.weight"), bench.weights("l.moe.experts.down.bias")};
  const auto slots = static_cast<size_t>(r.routing.experts.size(1));
  std::vector<double> y(x.size());
  for (size_t t = 0; t < experts.size() / slots; ++t)
    for (size_t i = 0; i < slots; ++i) {
      const bool any = t < expected.experts.size() && i < expected.experts[t].size();
      REQUIRE(experts[t * slots + i] == (any ? expected.experts[t][i] : -1));
      if (!any) {
        EXPECT(gates[t * slots + i] == 0);
        continue;
      }
      EXPECT(std::abs(gates[t * slots + i] - expected.gates[t][i]) < 1e-12);
      const std::vector<double> one = naive_expert(w, &x[t * kHidden], static_cast<size_t>(expected.experts[t][i]));
      for (size_t h = 0; h < kHidden; ++h) y[t * kHidden + h] += expected.gates[t][i] * one[h];
    }
  for (size_t i = 0; i < expected.beside.size(); ++i) y[i] += expected.beside[i];
  EXPECT(largest_difference(values(r.y.value()), y) < 1e-12);  // the tail's rows are 0
  compare_columns(row, r.routing, expected);
  std::vector<double> scores = expected.scores;
  scores.resize(static_cast<size_t>(r.routing.scores.value().numel()));
  EXPECT(largest_difference(values(r.routing.scores.value()), scores) < 1e-12);

  EXPECT(r.routing.matrix.defined() == row.traits.linear);
  if (row.traits.linear) expected.matrix = values(r.routing.matrix.value());
  expected.first = w[0];
  const std::vector<LossRow> losses = losses_of(row);
  const size_t own_losses = expected.losses.size();
  REQUIRE(r.routing.losses.size() == own_losses + losses.size());
  for (size_t i = 0; i < own_losses; ++i)
    EXPECT(std::abs(values(r.routing.losses[i].values.value())[0] - expected.losses[i]) < 1e-12);
  for (size_t i = 0; i < losses.size(); ++i) {
    INFO(losses[i].names[0]);
    EXPECT(r.routing.losses[own_losses + i].names == losses[i].names);
    EXPECT(largest_difference(values(r.routing.losses[own_losses + i].values.value()),
                              losses[i].oracle(expected, 4, row.traits.fixed_k ? top_k : 1)) < 1e-12);
  }
  // Energy is load balance: Σ (mean g)² = 1/E + (E − 1)/E² · CV² (docs/science.md 6.1).
  const std::vector<double> load = values(r.routing.losses[own_losses].values.value());
  if (gates_sum(row, own) == 1) EXPECT(std::abs(load[1] - (0.25 + 3.0 / 16 * load[0])) < 1e-7);
}

bool one_gate_is_fixed(const RouterRow& row, const OptionValues& own) {
  return gates_sum(row, own) > 0 && row.traits.fixed_k && !row.traits.untrained;
}

TEST_CASE(
    "moe: every router of the registry, its options and every loss agree with the oracle, for K = 1 … E, with and "
    "without a tail") {
  for (const RouterRow& row : router_registry())
    for (const OptionValues& own : option_choices(row))
      for (const int64_t top_k : {1, 2, 3, 4})
        for (const int64_t capacity : {0, 17}) {
          // A router whose gates may all be shares by an option refuses that itself.
          if (top_k == 1 && (refuses_one_expert(row.traits) || one_gate_is_fixed(row, own))) continue;
          compare_with_oracle(row, own, top_k, capacity);
        }
}

// Its options as usual, with other texts and switches, and where one says what gates sum to, with other numbers.
std::vector<OptionValues> choices_and_sums(const RouterRow& row) {
  std::vector<OptionValues> all = option_choices(row);
  for (const OptionRow& o : row.options) {
    if (!row.gates_sum || !std::holds_alternative<double>(o.standard) || o.most < 2.5) continue;
    all.push_back(all[0]);
    all.back().set(o.name, 2.5);
  }
  return all;
}

TEST_CASE("moe: a token's gates sum to what the router's row says, with its options") {
  size_t others = 0;
  for (const RouterRow& row : router_registry()) {
    EXPECT((gates_sum(row, {}) == 1) == row.traits.gates_sum_to_one);
    for (const OptionValues& own : choices_and_sums(row)) {
      INFO(std::string(row.name));
      Bench bench(row.name, 4, 2, {5, 2, 7}, 0, own);
      const Routing r = bench.run(bench.input()).routing;
      const std::vector<double> gates = values(r.gates.value());
      const size_t slots = gates.size() / 14;
      const double said = gates_sum(row, own);
      others += said != gates_sum(row, {});
      bool to_one_number = true;
      for (size_t t = 0; t < 14; ++t)
        to_one_number = to_one_number &&
                        std::abs(std::accumulate(&gates[t * slots], &gates[t * slots] + slots, 0.0) - said) < 1e-12;
      EXPECT(to_one_number == (said > 0));
      // What the tables of shares are for.
      MoeConfig config{row.name, 4, 2};
      for (const auto& [name, value] : own.all()) config.options.set(name, value);
      if (row.traits.gates_sum_to_one && row.traits.fixed_k) EXPECT(routing_varies(config) == (said != 1));
    }
  }
  EXPECT(others >= 2);
}

TEST_CASE("moe: traits hold: gates that sum to 1, K experts of each token, choices that look ahead or do not") {
  for (const RouterRow& row : router_registry()) {
    INFO(std::string(row.name));
    Bench bench(row.name);
    const Tensor x = bench.input();
    const Routing before = bench.run(x).routing;
    const std::vector<double> gates = values(before.gates.value());
    const auto experts = before.experts.to_vector<int32_t>();
    const auto slots = static_cast<size_t>(before.experts.size(1));
    bool sums = true, fixed = true;
    for (size_t t = 0; t < experts.size() / slots; ++t) {
      double sum = 0;
      int64_t count = 0;
      for (size_t i = t * slots; i < (t + 1) * slots; ++i) sum += gates[i], count += experts[i] >= 0;
      sums = sums && std::abs(sum - 1) < 1e-12;
      fixed = fixed && count == 2;
    }
    EXPECT(sums == row.traits.gates_sum_to_one);
    EXPECT(fixed == row.traits.fixed_k);
    EXPECT(before.chosen == (row.traits.fixed_k ? 2 : 0));
    EXPECT(looks_ahead(bench, false) == row.traits.reads_future);
    EXPECT(looks_ahead(bench, true) == (row.traits.reads_future || row.traits.trains_on_batch));
  }
}

TEST_CASE("moe: the experts' outputs, combined, are the layer's output") {
  for (const RouterRow& row : router_registry()) {
    INFO(std::string(row.name));
    Bench bench(row.name);
    const Tensor x = bench.input();
    const FeedForward::Result r = bench.run(x);
    const ExpertPairs pairs = bench.layer->pairs(x, r.routing);
    Var y = combine_rows(pairs.outputs, r.routing.gates, pairs.dispatch);
    if (r.routing.beside.defined()) y = add(y, r.routing.beside);
    EXPECT(largest_difference(values(y.value()), values(r.y.value())) < 1e-13);
  }
}

// Its values in the layer's report.
const Var& loss_named(const Routing& r, const std::string& name) {
  for (const AuxiliaryLosses& losses : r.losses)
    if (losses.names[0] == name) return losses.values;
  fail_input("no loss {}", name);
}

TEST_CASE(
    "moe: a loss on the experts' outputs agrees with its oracle, changes no output and moves experts, not routers") {
  for (const RouterRow& row : router_registry())
    for (const LossRow& loss : loss_registry()) {
      if (loss.reads != LossReads::kOutputs) continue;
      INFO(row.name, " ", loss.names[0]);
      OptionValues weight;
      for (const OptionRow& option : loss.weights) weight.set(option.name, 0.3);
      const std::vector<int32_t> lengths = {5, 2, 7};
      Bench plain(row.name, 4, 2, lengths, 17), with(row.name, 4, 2, lengths, 17, weight);
      const FeedForward::Result a = plain.run(plain.input()), b = with.run(with.input());
      EXPECT(largest_difference(values(a.y.value()), values(b.y.value())) < 1e-13);
      const FeedForward::Result first = with.run(with.input(), true);
      const Var& of_all = loss_named(b.routing, loss.names[0]);
      EXPECT(values(loss_named(first.routing, loss.names[0]).value()) == values(of_all.value()));

      const std::vector<double> w[4] = {
          with.weights("l.moe.experts.up.weight"), with.weights("l.moe.experts.up.bias"),
          with.weights("l.moe.experts.down.weight"), with.weights("l.moe.experts.down.bias")};
      const std::vector<double> x = values(with.input());
      OracleRouting expected = oracle_of(with, row, {}, x, lengths, 2);
      for (size_t t = 0; t < expected.experts.size(); ++t) {
        expected.outputs.emplace_back();
        for (const int32_t e : expected.experts[t])
          for (const double y : naive_expert(w, &x[t * kHidden], static_cast<size_t>(e)))
            expected.outputs.back().push_back(y);
      }
      EXPECT(largest_difference(values(of_all.value()), loss.oracle(expected, 4, 2)) < 1e-10);
      backward(reshape(of_all, {}));
      for (const Parameter& p : with.set.all()) {
        if (p.frozen) continue;
        INFO(p.name);
        const bool reached = p.var.grad().defined() && largest(values(p.var.grad())) > 1e-9;
        EXPECT(reached == contains(p.name, "experts"));
      }
    }
}

TEST_CASE("moe: the balance of a whole step counts the step's earlier micro-batches, and starts anew after it") {
  Bench bench(plain_router());
  State* counted = nullptr;
  for (State& s : bench.set.states())
    if (contains(s.name, "counted")) counted = &s;
  REQUIRE((counted != nullptr));
  counted->value.zero();
  const auto loss_of = [](const Routing& r) { return values(loss_named(r, "global_balance").value())[0]; };
  const Routing once = bench.run(bench.input(), false, true).routing;
  std::vector<double> counts = values(expert_counts(once.experts, 4, DType::kFloat64));
  counts.push_back(13);
  EXPECT(values(counted->value) == counts);
  // Other rows: the same text in another order of its experts' names would be as good; twice the first is not.
  Tensor x = bench.input();
  x = scale(x, -1).value();
  const Routing second = bench.run(x, false, true).routing;
  const std::vector<double> own = values(expert_counts(second.experts, 4, DType::kFloat64)),
                            l = values(second.scores.value());
  double expected = 0;
  for (size_t t = 0; t < 13; ++t) {
    const std::vector<double> p = oracle_softmax(&l[t * 4], 4);
    for (size_t e = 0; e < 4; ++e) expected += 4 * (counts[e] + own[e]) / 26 / 2 * p[e] / 13;
  }
  EXPECT(std::abs(loss_of(second) - expected) < 1e-12);
  EXPECT(std::abs(loss_of(bench.run(x).routing) - expected) > 1e-6);  // evaluation knows this batch alone
  bench.layer->after_step({});
  EXPECT(values(counted->value) == std::vector<double>(5));
}

TEST_CASE("moe: pairs that lie by expert: fewer than the slots, tokens without an expert, first rows only") {
  Context context(test_device());
  const Sequences q = make_sequences(context, {2, 3});
  const Tensor experts = from_vector<int32_t>(context, {1, -1, 0, 2, -1, -1, -1, 1, 0, -1}, {5, 2}),
               gates = from_vector<double>(context, {0.5, 0, 2, 1, 0, 0, 0, 3, 1, 0}, {5, 2});
  const Tensor x = from_vector<double>(context, {1, 10, 100, 1000, 10000}, {5, 1});
  const Dispatch d = make_dispatch(experts, 3, 1, 6);
  EXPECT(d.rows == 6);
  EXPECT(d.offsets.to_vector<int32_t>() == std::vector<int32_t>{0, 2, 4, 5});
  EXPECT(values(combine_rows(dispatch_rows(x, d), gates, d).value()) ==
         std::vector<double>{0.5, 30, 0, 3000, 10000});
  // The first rows 0 and 2: one has a pair, the other none.
  const Tensor first = gather_index_rows(experts, q.first_rows);
  const Dispatch f = make_dispatch(first, 3, 1, 4);
  EXPECT(values(combine_rows(dispatch_rows(first_rows(x, q), f), first_rows(gates, q), f).value()) ==
         std::vector<double>{0.5, 0});
  if (test_device().is_cpu())
    EXPECT(contains(error_of([&] { make_dispatch(experts, 3, 1, 4); }), "rows for a capacity of 4"));
  EXPECT(contains(error_of([&] { make_dispatch(experts, 3, 1, 11); }), "a capacity of at most 10 pairs"));
}

TEST_CASE("moe: a router with state says so, changes it after a step by what the step counted, and only then") {
  for (const RouterRow& row : router_registry()) {
    INFO(std::string(row.name));
    Context context(test_device());
    ModelConfig config = tiny_config(row.name);
    Model model(context, config, 11);
    EXPECT(!model.router_state().empty() == row.traits.stateful);
    const auto state = [&] {
      std::vector<double> all;
      for (const Statistic& s : model.router_state())
        for (const double v : values(s.value)) all.push_back(v);
      return all;
    };
    const std::vector<double> fresh = state();
    const Batch a = tiny_batch(context, {6, 3, 9}, config.bert, 1), b = tiny_batch(context, {2, 5}, config.bert, 2);
    const Model::Output evaluated = model.forward(a, false);
    for (const Statistic& s : evaluated.routings[0].statistics) FAIL(s.name, " in evaluation");
    StepRoutings step;
    step.add(model.forward(a, true).routings);
    step.add(model.forward(b, true).routings);  // two micro-batches
    EXPECT(state() == fresh);
    model.after_step(step);
    EXPECT((state() != fresh) == row.traits.stateful);
  }
}

TEST_CASE("statistics of a step: sums, means, largest, and those that do not add") {
  Context context(test_device());
  const auto two = [&](double a, double b) { return from_vector<double>(context, {a, b}, {2}); };
  StepStatistics s;
  for (const auto& [a, b] : {std::pair{1.0, 5.0}, {3.0, -1.0}})
    s.add({{"sum", two(a, b), StatisticReduction::kSum},
           {"mean", two(a, b), StatisticReduction::kMean},
           {"max", two(a, b), StatisticReduction::kMax},
           {"each", two(a, b), StatisticReduction::kEach}});
  EXPECT(values(s["sum"]) == std::vector<double>{4, 4});
  EXPECT(values(s["mean"]) == std::vector<double>{2, 2});
  EXPECT(values(s["max"]) == std::vector<double>{3, 5});
  EXPECT(values(s.each("each")[1]) == std::vector<double>{3, -1});
  EXPECT(contains(error_of([&] { s["each"]; }), "is not one value"));
  EXPECT(contains(error_of([&] { s["lod"]; }), "no routing of this step has it"));
}

TEST_CASE("top-p: more experts than --max-k are counted, and the slots hold the first ones") {
  Context context(test_device());
  const Tensor p = from_vector<double>(context, {0.5, 0.3, 0.2, 0.2, 0.2, 0.6, 0.35, 0.3, 0.35}, {3, 3});
  const Sequences q = make_sequences(context, {3});
  const TopP all = choose_top_p(p, 0.6, 3, q), two = choose_top_p(p, 0.6, 2, q), one = choose_top_p(p, 0.6, 1, q);
  EXPECT(all.experts.to_vector<int32_t>() == std::vector<int32_t>{0, 1, -1, 2, 0, -1, 0, 2, -1});
  EXPECT(values(all.gates.value()) == std::vector<double>{0.5, 0.3, 0, 0.6, 0.2, 0, 0.35, 0.35, 0});
  EXPECT(values(all.overflow) == std::vector<double>{0});
  EXPECT(values(two.overflow) == std::vector<double>{0});
  EXPECT(values(one.overflow) == std::vector<double>{3});
  EXPECT(one.experts.to_vector<int32_t>() == std::vector<int32_t>{0, 2, 0});
}

TEST_CASE(
    "moe: in the padded layout a router takes padding for tokens, in means and losses too (docs/science.md 6)") {
  for (const RouterRow& row : router_registry()) {
    INFO(std::string(row.name));
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
  Bench bench(plain_router(), 1, 1);
  const Tensor x = bench.input();
  EXPECT(values(bench.run(x).y.value()) == values(dense_with(bench, x, 0).value()));
}

TEST_CASE(
    "moe: equal experts are the dense FFN where gates sum to 1, and so much of it where they sum to another number") {
  for (const RouterRow& row : router_registry())
    for (const OptionValues& own : choices_and_sums(row)) {
      const double sum = gates_sum(row, own);
      if (sum == 0) continue;
      Bench bench(row.name, 4, 2, {5, 1, 7}, 0, own);
      for (const Parameter& p : bench.set.all())
        if (contains(p.name, "experts"))
          for (int64_t e = 1; e < 4; ++e) p.var.value().rows(e, e + 1).copy_from(p.var.value().rows(0, 1));
      const Tensor x = bench.input();
      EXPECT(largest_difference(values(bench.run(x).y.value()),
                                values(scale(dense_with(bench, x, 0), sum).value())) < 1e-13);
    }
}

TEST_CASE("moe: permuting the experts permutes their numbers and nothing else") {
  const std::vector<int32_t> order = {2, 0, 3, 1};  // new expert e is old expert order[e]
  for (const RouterRow& row : router_registry()) {
    if (!row.traits.experts_permutable) continue;
    Bench before(row.name), after(row.name);
    const Tensor index = from_vector(after.context, order, {4});
    const auto permute = [&](Tensor value) {
      value.copy_from(gather_rows(value.clone().reshape({4, -1}), index).value().reshape(value.shape()));
    };
    for (const Parameter& p : after.set.all())
      if (p.expert_axis == 0) permute(p.var.value());
    for (const State& state : after.set.states())
      if (state.shape[0] == 4) permute(state.value);
    const FeedForward::Result a = before.run(before.input()), b = after.run(after.input());
    EXPECT(largest_difference(values(a.y.value()), values(b.y.value())) < 1e-13);
    EXPECT(largest_difference(values(a.routing.losses[0].values.value()),
                              values(b.routing.losses[0].values.value())) < 1e-12);
    const auto ea = a.routing.experts.to_vector<int32_t>(), eb = b.routing.experts.to_vector<int32_t>();
    bool same = true;
    for (size_t i = 0; i < ea.size(); ++i) same = same && ea[i] == (eb[i] < 0 ? -1 : order[size_t(eb[i])]);
    EXPECT(same);
  }
}

TEST_CASE("moe: of equal logits the lower experts win") {
  for (const RouterRow& row : router_registry()) {
    INFO(std::string(row.name));
    Bench bench(row.name);
    if (!bench.has_router_weights()) continue;  // nothing to make equal
    for (const Parameter& p : bench.set.all())
      if (contains(p.name, "router")) Tensor(p.var.value()).zero();
    for (State& s : bench.set.states()) s.value.zero();
    const FeedForward::Result r = bench.run(bench.input());
    const auto experts = r.routing.experts.to_vector<int32_t>();
    const auto slots = static_cast<int32_t>(r.routing.experts.size(1));
    const std::vector<double> gates = values(r.routing.gates.value());
    for (size_t i = 0; i < experts.size(); ++i) {
      EXPECT((experts[i] == static_cast<int32_t>(i) % slots || (experts[i] == -1 && !row.traits.fixed_k)));
      EXPECT(gates[i] == (experts[i] < 0 ? 0 : gates[0]));
    }
  }
}

// The weights that a router's own losses reach.
std::set<std::string> own_reach(const RouterRow& row, size_t own) {
  std::set<std::string> names;
  for (size_t i = 0; i < own; ++i) {
    Bench bench(row.name);
    backward(reshape(bench.run(bench.input(), false, true).routing.losses[i].values, {}));
    for (const Parameter& p : bench.set.all())
      if (p.var.grad().defined() && largest(values(p.var.grad())) > 1e-9) names.insert(p.name);
  }
  return names;
}

TEST_CASE(
    "moe: each loss alone reaches every router weight that no loss of the router's own does; those on the router's matrix "
    "reach that one") {
  for (const RouterRow& row : router_registry()) {
    if (row.traits.untrained) continue;
    INFO(row.name);
    const std::vector<LossRow> losses = losses_of(row);
    Bench one(row.name);
    const size_t all_losses = one.run(one.input(), false, true).routing.losses.size();
    const std::set<std::string> own = own_reach(row, all_losses - losses.size());
    for (size_t i = 0; i < losses.size(); ++i)
      for (size_t j = 0; j < losses[i].names.size(); ++j) {
        Bench bench(row.name);
        const Routing routing = bench.run(bench.input(), false, true).routing;
        const Var& all = routing.losses[routing.losses.size() - losses.size() + i].values;
        // Even loads leave Switch's loss nothing to do, nor has a z-loss with logarithms of numbers that sum to 1, nor one
        // on gates that all are 0 or 1.
        const std::vector<double> loads = values(expert_counts(routing.experts, 4, DType::kFloat64));
        const std::string& name = losses[i].names[j];
        const std::vector<double> gates = values(routing.gates.value());
        const bool hard = std::ranges::all_of(gates, [](double g) { return g == 0 || g == 1; });
        const bool idle = name == "switch" ? std::set<double>(loads.begin(), loads.end()).size() == 1
                                           : (name == "z" && row.traits.normalised) || (losses[i].always && hard);
        backward(reshape(rows(all, static_cast<int64_t>(j), static_cast<int64_t>(j) + 1), {}));
        for (const Parameter& p : bench.set.all()) {
          INFO(p.name, " ", losses[i].names[j]);
          const bool reached = p.var.grad().defined() && largest(values(p.var.grad())) > 1e-9;
          const bool experts_too = losses[i].reads == LossReads::kExperts || row.traits.reads_experts;
          if (experts_too && contains(p.name, "experts.up.weight")) continue;
          // Weights that have a loss of the router's own, and those of columns that are no FFN, which the task alone moves.
          const bool spared = own.contains(p.name) || !row.columns.empty();
          if (!reached && spared && !contains(p.name, "token")) continue;
          EXPECT(reached == (!idle && (losses[i].of_matrix() ? p.name == "l.moe.router.token.weight"
                                                             : contains(p.name, "router"))));
        }
      }
  }
}

TEST_CASE("moe: with one expert a token the task still teaches the router, or K = 1 is refused") {
  RouterOptions alone;  // one expert of one is no choice, but beside a null column it is
  alone.n_experts = alone.top_k = 1;
  for (const RouterRow& row : router_registry()) {
    INFO(std::string(row.name));
    const bool refused = refuses_one_expert(row.traits), beside = !row.columns.empty();
    ParameterSet set;
    const std::string error = error_of([&] { make_router(row.name, set, "r", alone); });
    EXPECT(contains(error, "gets no gradient") == (refused && beside));
    if (row.traits.untrained || refused) continue;
    Bench bench(row.name, 4, 1);
    if (!bench.has_router_weights()) continue;
    backward(sum(square(bench.run(bench.input(), false, true).y)));  // no loss on the routing
    const char* chooses = beside ? "router.token" : "router";        // columns have weights that choose nothing
    EXPECT(std::ranges::any_of(bench.set.all(), [&](const Parameter& p) {
      return contains(p.name, chooses) && p.var.grad().defined() && largest(values(p.var.grad())) > 1e-9;
    }));
  }
}

TEST_CASE("moe: K = 1 is refused where gates sum to 1; unknown routers, options and a wrong K are errors") {
  ParameterSet set;
  RouterOptions o;
  o.top_k = 1;
  for (const RouterRow& row : router_registry()) {
    INFO(std::string(row.name));
    ParameterSet fresh;
    const std::string error = error_of([&] { make_router(row.name, fresh, "r", o); });
    EXPECT(contains(error, "gets no gradient") == refuses_one_expert(row.traits));
  }
  const RouterRow& row = router_registry()[0];
  o.top_k = 9;
  EXPECT(contains(error_of([&] { make_router(row.name, set, "r", o); }), "1 <= top_k <= experts"));
  o.top_k = 2;
  const std::string unknown = "no-such";
  EXPECT(contains(error_of([&] { make_router(unknown, set, "r", o); }),
                  "expected one of " + std::string(router_registry()[0].name)));
  o.own.set("moon-phase", 0.5);
  for (const RouterRow& other : router_registry()) {
    const std::string error = error_of([&] { make_router(other.name, set, "r", o); });
    EXPECT(contains(error, fmt::format("router {}: has no option --moon-phase; it has", other.name)));
    for (const OptionRow& option : other.options) EXPECT(contains(error, fmt::format("--{}", option.name)));
  }
  MoeConfig config;
  config.router = row.name, config.options.set("mixture", std::string("ruoted"));
  EXPECT(contains(error_of([&] { make_mixture(set, "l", config, {}, 0); }), "--mixture: expected"));
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
