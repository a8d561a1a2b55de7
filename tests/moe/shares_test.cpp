// Utilisation by gate mass and by choices, and what a token costs, of every router and mixture of the tables.
#include "moe/cost.h"
#include "moe/utilisation.h"
#include "tests/nn/helpers.h"

namespace glia::test {
namespace {

// Shares of one layer by class, over all rows: what the tables say, added up row by row.
struct Shares {
  std::vector<double> sums, rows, unrouted;  // [C, E + X], [C], [C]
  double pairs = 0;

  Shares(size_t classes, size_t columns) : sums(classes * columns), rows(classes), unrouted(classes) {}
  void add(size_t label, const std::vector<double>& row) {
    double sum = 0;
    for (const double v : row) sum += v;
    if (sum == 0) {
      unrouted[label] += 1;
      return;
    }
    rows[label] += 1;
    for (size_t e = 0; e < row.size(); ++e) sums[label * row.size() + e] += row[e] / sum;
  }
};

void compare(const Utilisation::Table& table, const Shares& expected) {
  const size_t columns = expected.sums.size() / expected.rows.size();
  EXPECT(table.rows == expected.rows);
  EXPECT(table.unrouted == expected.unrouted);
  for (size_t i = 0; i < expected.sums.size(); ++i) {
    const double n = expected.rows[i / columns];
    EXPECT(std::abs(table.mean[i] - (n > 0 ? expected.sums[i] / n : 0)) < 1e-6);
  }
}

TEST_CASE("utilisation: shares of gate mass and of choices agree with a loop over tokens, whatever the router") {
  bool any_unrouted = false, any_columns = false;
  for (const RouterRow& router : router_registry()) {
    INFO(std::string(router.name));
    Context context(test_device());
    const ModelConfig config = tiny_config(router.name);
    const Model model(context, config, 11);
    const size_t X = router.columns.size(), columns = 4 + X;
    Utilisation u(context, 2, 3, 4, true, static_cast<int64_t>(X));
    Shares mass(3, columns), choices(3, columns);
    for (const uint64_t seed : {3, 4}) {
      const std::vector<int32_t> lengths = {6, 3, 9, 2};
      const Batch batch = tiny_batch(context, lengths, config.bert, seed, 25);
      const Model::Output out = model.forward(batch, false);
      u.add(out.routings, batch.labels, batch.sequences);
      const Routing& r = out.routings[0];
      const auto experts = r.experts.to_vector<int32_t>(), labels = batch.labels.to_vector<int32_t>();
      const std::vector<double> gates = values(r.gates.value()),
                                other_gates = X ? values(r.other_gates) : std::vector<double>(),
                                other_choices = X ? values(r.other_choices) : std::vector<double>();
      const size_t slots = static_cast<size_t>(r.experts.size(1));
      size_t t = 0;
      for (size_t b = 0; b < lengths.size(); ++b)
        for (int32_t p = 0; p < lengths[b]; ++p, ++t) {
          std::vector<double> by_mass(columns), by_choice(columns);
          for (size_t i = t * slots; i < (t + 1) * slots; ++i)
            if (experts[i] >= 0) {
              by_mass[size_t(experts[i])] += gates[i];
              by_choice[size_t(experts[i])] += 1;
              choices.pairs += 1;
            }
          for (size_t x = 0; x < X; ++x)
            by_mass[4 + x] = other_gates[t * X + x], by_choice[4 + x] = other_choices[t * X + x];
          mass.add(size_t(labels[b]), by_mass);
          choices.add(size_t(labels[b]), by_choice);
        }
    }
    const Utilisation::Layer read = u.read()[0];
    compare(read.mass.all, mass);
    compare(read.choices.all, choices);
    double pairs = 0;
    for (const double n : read.choices.all.pairs) pairs += n;
    EXPECT(pairs == choices.pairs);
    EXPECT(read.all.mean.size() == 12);
    for (const double n : mass.unrouted) any_unrouted = any_unrouted || n > 0;
    any_columns = any_columns || X > 0;
    // Where K gates sum to 1, mass is what the first table says.
    if (router.traits.gates_sum_to_one && X == 0)
      EXPECT(largest_difference(read.mass.all.mean, read.all.mean) < 1e-6);
  }
  EXPECT((any_unrouted && any_columns));
}

TEST_CASE("cost: the products of a dense model; a mixture of one expert costs as much, K of them K − 1 FFNs more") {
  ModelConfig config = tiny_config("none");
  const double attention = 4 * 8 * 8, ffn = 2 * 8 * 16, pooler = 0;
  const TokenCost dense = token_cost(config, 0, 10);
  EXPECT(dense.flops == 2 * 2 * (attention + ffn + pooler));
  for (const RouterRow& row : router_registry()) {
    INFO(std::string(row.name));
    ModelConfig moe = tiny_config(row.name);
    ParameterSet set;
    make_bert(set, moe);
    double router = 0;
    for (const Parameter& p : set.all())
      if (contains(p.name, "router") && p.shape.rank() >= 2 && p.shape.numel() > 1)
        router += static_cast<double>(p.shape.numel());
    // Who reads the experts to choose passes the first half of all four; by labels in training alone.
    const double read = row.traits.reads_experts && !row.traits.needs_labels ? 2 : 0;
    for (const double k : {1.0, 2.0}) {
      const TokenCost cost = token_cost(moe, k, 10);
      EXPECT(std::abs(cost.flops - (dense.flops + 2 * router + 2 * 2 * (k - 1 + read) * ffn)) < 1e-9);
      EXPECT(cost.parameters >= dense.parameters + (read > 0 ? 2 * (2 - k / 2) * ffn : 0));
    }
    const double expected = expected_experts(moe.moe);
    EXPECT((expected > 0 && expected <= 4));
    const std::string words = experts_in_words(moe.moe);
    EXPECT(words.starts_with("up to 4 experts") == row.traits.learned_k);
    EXPECT(contains(words, "all 4") == row.traits.reads_experts);
  }
  for (const MixtureRow& row : mixture_registry()) {
    ModelConfig moe = tiny_config(std::string(row.name) + ":" + plain_router());
    const FfnCost cost = row.cost(moe.moe, 2, 8);
    EXPECT((cost.products > 0 && cost.parameters >= 2));
    moe.moe.options.set("shared-experts", int64_t{3});
    const ModelConfig without = tiny_config(std::string(row.name) + ":" + plain_router());
    EXPECT(std::abs(token_cost(moe, 2, 8).flops - token_cost(without, 2, 8).flops - 2 * 2 * 3 * ffn) < 1e-9);
  }
}

}  // namespace
}  // namespace glia::test
