#include <algorithm>
#include <cmath>
#include <numeric>

#include "experiments/records/metrics.h"

namespace glia::results {
namespace {

double zero(int) { return 0; }

// A sum over routed tokens as their mean.
MetricValue routed_mean(const LayerCounts& c, double sum) {
  const int64_t routed = c.tokens - c.unrouted;
  return routed > 0 ? MetricValue(sum / double(routed)) : MetricValue();
}

MetricValue value_of(const std::optional<double>& value) { return value ? MetricValue(*value) : MetricValue(); }

MetricValue value_of(const Matrix& m) {
  MetricValue value(m.values);
  value.columns = m.cols;
  return value;
}

// Rows that sum to 1 or, where nobody is seen, to 0.
Matrix over_row_sums(Matrix m) {
  for (int r = 0; r < m.rows; ++r) {
    double sum = 0;
    for (int c = 0; c < m.cols; ++c) sum += m(r, c);
    for (int c = 0; c < m.cols; ++c) m(r, c) /= sum > 0 ? sum : 1;
  }
  return m;
}

// Mean over columns of the largest value; over rows where `by_row`.
double mean_largest(const Matrix& m, bool by_row) {
  double sum = 0;
  const int outer = by_row ? m.rows : m.cols, inner = by_row ? m.cols : m.rows;
  for (int o = 0; o < outer; ++o) {
    double largest = 0;
    for (int i = 0; i < inner; ++i) largest = std::max(largest, by_row ? m(o, i) : m(i, o));
    sum += largest;
  }
  return sum / outer;
}

double share_by_chance(const LayerCounts& c) { return c.experts_a_token() / c.n_experts; }

// Of the k − 1 others that a token has beside the expert, over the E − 1 that there are: Σ k (k − 1) / Σ k / (E − 1). The
// mean of k alone does not say it, for tokens of many experts are in more experts' lists.
double partner_by_chance(const LayerCounts& c) {
  const auto sum = [](const Matrix& m) { return std::accumulate(m.values.begin(), m.values.end(), 0.0); };
  return sum(c.together) / std::max(sum(c.choices), 1.0) / std::max(c.n_experts - 1, 1);
}

// Rows of what is counted token by token: analysis.json alone has them.
void add_token_rows(std::vector<MetricRow>& rows) {
  using enum Stage;
  rows.push_back({.name = "gate_margin",
                  .label = "margin",
                  .help = "margin: first gate minus second, mean over tokens",
                  .stage = routing,
                  .digits = 3,
                  .read = FromCounts([](const LayerCounts& c) { return routed_mean(c, c.margin); }),
                  .analysed = true});
  rows.push_back({.name = "gate_entropy_bits",
                  .label = "gate entropy",
                  .help = "gate entropy: of a token's gates over their sum, bits, mean over tokens",
                  .stage = routing,
                  .digits = 3,
                  .least = 0,
                  .read = FromCounts([](const LayerCounts& c) { return routed_mean(c, c.gate_entropy); }),
                  .analysed = true,
                  .chance = [](const LayerCounts& c) {
                    return c.even_entropy / double(std::max<int64_t>(c.tokens - c.unrouted, 1));
                  }});
  rows.push_back({.name = "router_entropy_bits",
                  .label = "router entropy",
                  .help = "router entropy: of a token's probabilities of all experts, bits, mean over tokens",
                  .stage = routing,
                  .digits = 3,
                  .least = 0,
                  .read = FromCounts([](const LayerCounts& c) {
                    return c.entropy_known ? MetricValue(c.entropy / double(c.tokens)) : MetricValue();
                  }),
                  .analysed = true,
                  .even = [](int n) { return std::log2(n); }});
  rows.push_back({.name = "unrouted",
                  .label = "unrouted",
                  .help = "unrouted: share of the tokens that have no expert",
                  .stage = routing,
                  .least = 0,
                  .most = 1,
                  .read = FromCounts([](const LayerCounts& c) {
                    return c.tokens > 0 ? MetricValue(double(c.unrouted) / double(c.tokens)) : MetricValue();
                  }),
                  .logged = 13,
                  .even = zero});
  rows.push_back({.name = "experts_a_token",
                  .label = "experts",
                  .help = "experts: a token's number of experts, mean",
                  .stage = routing,
                  .digits = 2,
                  .least = 0,
                  .read = FromCounts([](const LayerCounts& c) { return MetricValue(c.experts_a_token()); }),
                  .analysed = true});
  rows.push_back({.name = "batch_violation",
                  .label = "MaxVio, batch",
                  .help = "MaxVio, batch: mean over batches of 8,192 tokens",
                  .stage = routing,
                  .digits = 3,
                  .least = 0,
                  .read = FromCounts([](const LayerCounts& c) {
                    return c.batches > 0 ? MetricValue(c.batch_violation / double(c.batches)) : MetricValue();
                  }),
                  .analysed = true,
                  .even = zero});
  rows.push_back(
      {.name = "specialisation_mass",
       .label = "… of mass",
       .help = "… of mass: specialisation of gates over each token's sum, tokens without experts left out",
       .stage = routing,
       .least = 0,
       .read = FromCounts([](const LayerCounts& c) { return value_of(specialisation(over_row_sums(c.shares))); }),
       .logged = 14,
       .even = zero});
  rows.push_back(
      {.name = "specialisation_choices",
       .label = "… of choices",
       .help = "… of choices: specialisation of the shares of choices, each token's divided by their number",
       .stage = routing,
       .least = 0,
       .read = FromCounts(
           [](const LayerCounts& c) { return value_of(specialisation(over_row_sums(c.choice_shares))); }),
       .logged = 15,
       .even = zero});
  rows.push_back(
      {.name = "topic_peak",
       .label = "topic",
       .help = "topic: of a topic's tokens the share that has the expert, in its best topic, mean over experts",
       .stage = routing,
       .digits = 3,
       .least = 0,
       .most = 1,
       .read = FromCounts([](const LayerCounts& c) { return MetricValue(mean_largest(topic_choices(c), false)); }),
       .analysed = true,
       .chance = share_by_chance});
  rows.push_back(
      {.name = "word_specialisation",
       .label = "words",
       .help =
           "words: share of a word's tokens that its favourite expert has, mean over words of 10 tokens or more",
       .stage = routing,
       .digits = 3,
       .least = 0,
       .most = 1,
       .read = FromCounts([](const LayerCounts& c) { return value_of(word_specialisation(c)); }),
       .analysed = true,
       .chance = share_by_chance});
  rows.push_back(
      {.name = "partner_peak",
       .label = "partner",
       .help = "partner: of an expert's tokens the share that its most frequent partner has too, mean over experts",
       .stage = routing,
       .digits = 3,
       .least = 0,
       .most = 1,
       .read = FromCounts([](const LayerCounts& c) { return MetricValue(mean_largest(co_activation(c), true)); }),
       .analysed = true,
       .chance = partner_by_chance});
  rows.push_back({.name = "topic_choices",
                  .label = "topic × expert",
                  .help = "topic × expert: of a topic's tokens the share that has the expert",
                  .stage = routing,
                  .read = FromCounts([](const LayerCounts& c) { return value_of(topic_choices(c)); }),
                  .form = Form::matrix,
                  .chance = share_by_chance});
  rows.push_back({.name = "co_activation",
                  .label = "expert × expert",
                  .help = "expert × expert: of the tokens that have the one, the share that has the other too",
                  .stage = routing,
                  .read = FromCounts([](const LayerCounts& c) { return value_of(co_activation(c)); }),
                  .form = Form::matrix});
}

}  // namespace

std::vector<MetricRow> routing_rows() {
  using enum Stage;
  std::vector<MetricRow> rows;
  // docs/science.md 4 and 9. eval.json has a layer's keys in this order.
  rows.push_back(
      {.name = "specialisation",
       .label = "specialisation",
       .help = "specialisation: mean over experts of the standard deviation over topics of the mean gate, 0 … 0.5",
       .stage = routing,
       .least = 0,
       .read = FromUtilisation(specialisation),
       .logged = 1,
       .compared = true,
       .even = zero});
  rows.push_back({.name = "specialisation_cls",
                  .label = "… CLS",
                  .help = "… CLS: the same over CLS rows only",
                  .stage = routing,
                  .least = 0,
                  .read = FromUtilisation(specialisation),
                  .first_rows = true,
                  .logged = 2,
                  .compared = true,
                  .even = zero});
  rows.push_back({.name = "mutual_information_bits",
                  .label = "MI",
                  .help = "MI: mutual information of topic and expert in bits, 0 … log2 of the smaller number",
                  .stage = routing,
                  .digits = 3,
                  .least = 0,
                  .read = FromUtilisation(mutual_information_bits),
                  .logged = 7,
                  .even = zero});
  rows.push_back({.name = "mutual_information_bits_cls",
                  .label = "MI, CLS",
                  .help = "MI, CLS: over CLS rows only",
                  .stage = routing,
                  .digits = 3,
                  .least = 0,
                  .read = FromUtilisation(mutual_information_bits),
                  .first_rows = true,
                  .logged = 8,
                  .even = zero});
  rows.push_back({.name = "entropy_bits",
                  .label = "entropy",
                  .help = "entropy: of the experts' loads in bits",
                  .stage = routing,
                  .digits = 2,
                  .least = 0,
                  .read = FromLoads([](const std::vector<double>& l) { return MetricValue(load_entropy_bits(l)); }),
                  .logged = 4,
                  .even = [](int n) { return std::log2(n); }});
  rows.push_back({.name = "load_cv",
                  .label = "load CV",
                  .help = "load CV: standard deviation over mean of the experts' loads",
                  .stage = routing,
                  .digits = 3,
                  .least = 0,
                  .read = FromLoads([](const std::vector<double>& l) { return MetricValue(load_cv(l)); }),
                  .logged = 3,
                  .even = zero});
  rows.push_back(
      {.name = "dead_experts",
       .label = "dead",
       .help = "dead: experts below a hundredth of an even share",
       .stage = routing,
       .digits = 1,
       .least = 0,
       .layers = Over::sum,
       .read = FromLoads([](const std::vector<double>& l) { return MetricValue(double(dead_experts(l))); }),
       .whole = true,
       .logged = 11,
       .even = zero});
  rows.push_back({.name = "largest_share",
                  .label = "largest",
                  .help = "largest: the busiest expert's share of the load",
                  .stage = routing,
                  .digits = 3,
                  .least = 0,
                  .most = 1,
                  .layers = Over::largest,
                  .read = FromLoads([](const std::vector<double>& l) {
                    return MetricValue(*std::max_element(l.begin(), l.end()));
                  }),
                  .logged = 12,
                  .even = [](int n) { return 1.0 / n; }});
  rows.push_back({.name = "loads",
                  .label = "loads",
                  .help = "loads: each expert's share of all gate mass",
                  .stage = routing,
                  .read = FromLoads([](const std::vector<double>& l) { return MetricValue(l); }),
                  .form = Form::vector,
                  .logged = 5});
  rows.push_back(
      {.name = "effective_experts",
       .label = "effective",
       .help = "effective: exp of the loads' entropy, as many experts used evenly would have it",
       .stage = routing,
       .digits = 2,
       .least = 0,
       .read = FromLoads([](const std::vector<double>& l) { return MetricValue(std::exp2(load_entropy_bits(l))); }),
       .logged = 6,
       .even = [](int n) { return double(n); }});
  rows.push_back({.name = "max_violation",
                  .label = "MaxVio",
                  .help = "MaxVio: the busiest expert's load over the mean load, less 1",
                  .stage = routing,
                  .digits = 3,
                  .least = 0,
                  .layers = Over::largest,
                  .read = FromLoads([](const std::vector<double>& l) { return MetricValue(max_violation(l)); }),
                  .logged = 9,
                  .even = zero});
  rows.push_back({.name = "gini",
                  .label = "Gini",
                  .help = "Gini: of the experts' loads, 0 even … 1 − 1/E",
                  .stage = routing,
                  .digits = 3,
                  .least = 0,
                  .most = 1,
                  .read = FromLoads([](const std::vector<double>& l) { return MetricValue(gini(l)); }),
                  .logged = 10,
                  .even = zero});
  rows.push_back({.name = "coverage",
                  .label = "coverage",
                  .help = "coverage: the share of all load that the 1, 2, … busiest experts have",
                  .stage = routing,
                  .read = FromLoads([](const std::vector<double>& l) { return MetricValue(coverage(l)); }),
                  .form = Form::vector});
  add_token_rows(rows);
  return rows;
}

}  // namespace glia::results
