// One MoE layer on its own, in float64 without dropout, and what its router's oracle needs.
#pragma once
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/moe/choose.h"
#include "moe/losses/losses.h"
#include "moe/moe_layer.h"
#include "tests/nn/helpers.h"

namespace glia::test {

constexpr int64_t kHidden = 8, kFfn = 16;

// The losses that this router has what they read for, and weights of 0.3 for them. Without those on outputs, which take
// another way through the experts.
inline std::vector<LossRow> losses_of(const RouterRow& row) {
  std::vector<LossRow> all;
  for (const LossRow& loss : loss_registry())
    if (loss.reads != LossReads::kOutputs && (!loss.of_matrix() || row.traits.linear)) all.push_back(loss);
  return all;
}
inline OptionValues all_losses(const RouterRow& row) {
  OptionValues weights;
  for (const LossRow& loss : losses_of(row))
    for (const OptionRow& weight : loss.weights)
      if (!loss.always) weights.set(weight.name, 0.3);
  return weights;
}

// The router's options at their defaults, then with each other text or switch that they may be.
inline std::vector<OptionValues> option_choices(const RouterRow& row) {
  OptionValues usual;
  for (const OptionRow& o : row.options) usual.set(o.name, o.standard);
  std::vector<OptionValues> all = {usual};
  for (const OptionRow& o : row.options) {
    std::vector<OptionValue> others;
    for (const char* choice : o.choices) others.emplace_back(std::string(choice));
    if (std::holds_alternative<bool>(o.standard)) others.emplace_back(!std::get<bool>(o.standard));
    for (const OptionValue& value : others) {
      if (value == o.standard) continue;
      all.push_back(usual);
      all.back().set(o.name, value);
    }
  }
  return all;
}

// One MoE layer on its own with its pass.
struct Bench {
  Context context{test_device()};
  ParameterSet set;
  std::unique_ptr<MoeLayer> layer;
  Sequences sequences, first;
  bool needs_labels;

  explicit Bench(const std::string& router, int64_t experts = 4, int64_t top_k = 2,
                 const std::vector<int32_t>& lengths = {5, 1, 7}, int64_t capacity = 0,
                 const OptionValues& own = {})
      : needs_labels(router_row(router).traits.needs_labels) {
    BertConfig bert = tiny_config(router).bert;
    MoeConfig moe{router, experts, top_k, 0.1, 0.2};
    moe.options = all_losses(router_row(router));
    for (const auto& [name, value] : own.all()) moe.options.set(name, value);
    layer = std::make_unique<MoeLayer>(set, "l", moe, bert, 0);
    set.materialise(context, 5, DType::kFloat64);
    // Biases other than 0, so that a forgotten one is seen; no matrix of zeros, which would leave all experts equal.
    for (const Parameter& p : set.all())
      if (!p.decay || p.init.std == 0) set.redraw(p, Init::normal(0.3), 5);
    for (State& s : set.states())
      s.value.copy_from(random_normal(context, s.shape, 0.3, 7, purpose::kTest, 1, DType::kFloat64));
    sequences = make_sequences(context, lengths, capacity);
    first = make_sequences(context, std::vector<int32_t>(lengths.size(), 1));
  }
  Tensor input() {
    // Drawn row by row, so that a longer tail leaves the other rows as they are.
    return random_normal(context, {sequences.tokens, kHidden}, 1, 9, purpose::kTest, 0, DType::kFloat64);
  }
  // Ids of the tokens: some come again.
  std::vector<int32_t> ids() const {
    std::vector<int32_t> all;
    for (int64_t t = 0; t < sequences.tokens; ++t) all.push_back(static_cast<int32_t>(t * t % 11));
    return all;
  }
  // Of the sequences: about half of each is its prompt.
  std::vector<int32_t> borders() const {
    std::vector<int32_t> all;
    const auto offsets = sequences.offsets.to_vector<int32_t>();
    for (size_t b = 1; b < offsets.size(); ++b) all.push_back((offsets[b] - offsets[b - 1] + 1) / 2);
    return all;
  }
  FeedForward::Result run(const Var& x, bool first_rows_only = false, bool training = false) {
    Pass pass{sequences, first, training, DType::kFloat64, 0};
    pass.ids = from_vector(context, ids(), {sequences.tokens});
    pass.borders = from_vector(context, borders(), {sequences.count});
    if (training && needs_labels) pass.labels = labels();
    return layer->forward(x, pass, first_rows_only);
  }
  // Of the sequences: 0, 1, 2, 0, …
  Tensor labels() {
    std::vector<int32_t> all;
    for (int64_t b = 0; b < sequences.count; ++b) all.push_back(static_cast<int32_t>(b % 3));
    return from_vector(context, all, {sequences.count});
  }
  bool has_router_weights() const {
    return std::any_of(set.all().begin(), set.all().end(),
                       [](const Parameter& p) { return contains(p.name, "router"); });
  }
  // A parameter's or a state's numbers.
  std::vector<double> weights(const std::string& name) {
    for (const State& s : set.states())
      if (s.name == name) return values(s.value);
    return values(set.get(name).var.value());
  }
};

inline OracleRouting oracle_of(Bench& bench, const RouterRow& row, const OptionValues& own,
                               const std::vector<double>& x, const std::vector<int32_t>& lengths, int64_t top_k) {
  const auto tokens = static_cast<size_t>(std::accumulate(lengths.begin(), lengths.end(), 0));  // no tail
  OracleInputs in{kHidden, 4, top_k, own, x, lengths, bench.ids(), bench.borders(), {}};
  in.x.resize(tokens * kHidden);
  in.ids.resize(tokens);
  in.weight = [&](const std::string& name) {
    for (const State& s : bench.set.states())
      if (s.name == name && s.shared) return values(s.value);
    if (name.starts_with("experts.")) return bench.weights("l.moe." + name);
    return bench.weights("l.moe.router." + name);
  };
  return row.oracle(in);
}

// Whether other numbers in the last row of the first sequence, and in all sequences behind it, change anything of the rows
// before it. Several times: a choice may stay although what it is made by has moved.
inline bool looks_ahead(Bench& bench, bool training) {
  const Tensor x = bench.input();
  const auto first_four = [&](const Tensor& input) {
    const Routing r = bench.run(input, false, training).routing;
    std::vector<double> all = values(r.scores.value().rows(0, 4));
    for (const double g : values(r.gates.value().rows(0, 4))) all.push_back(g);
    for (const int32_t e : r.experts.rows(0, 4).to_vector<int32_t>()) all.push_back(e);
    return all;
  };
  const std::vector<double> before = first_four(x);
  for (const double factor : {-1.0, 0.3, 3.0, -4.0, 10.0}) {
    Tensor later = x.clone();
    later.rows(4, x.size(0)).copy_from(scale(x.rows(4, x.size(0)), factor).value());
    if (first_four(later) != before) return true;
    later.rows(4, 5).copy_from(x.rows(7, 8));
    if (first_four(later) != before) return true;
  }
  return false;
}

}  // namespace glia::test
