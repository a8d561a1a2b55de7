#include "experiments/records/routing/routing_counts.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/core/check.h"

namespace glia::results {
namespace {

// Entropy in bits of a token's gates over their sum.
double entropy_bits(const float* gates, int count, double sum) {
  double bits = 0;
  for (int k = 0; k < count; ++k)
    if (gates[k] > 0) bits -= double(gates[k]) / sum * std::log2(double(gates[k]) / sum);
  return bits;
}

// A token's experts and gates, in their order and without empty slots.
struct Choices {
  std::vector<int32_t> experts;
  std::vector<float> gates;
  int count = 0;
  double sum = 0;

  explicit Choices(int slots) : experts(size_t(slots)), gates(size_t(slots)) {}
  void read(const TokenTrace& t, int layer, int64_t n) {
    count = 0, sum = 0;
    const size_t at = size_t((n * t.layers + layer) * t.slots);
    for (int k = 0; k < t.slots; ++k) {
      const int32_t expert = t.experts[at + size_t(k)];
      const float gate = t.gates[at + size_t(k)];
      if (expert == -1) continue;
      bool fits = expert >= 0 && expert < t.n_experts && gate >= 0 && std::isfinite(gate);
      for (int i = 0; i < count; ++i) fits = fits && experts[size_t(i)] != expert;
      CHECK(fits,
            "trace: token {}, layer {}: wants each of {} experts once, with a gate of 0 or more, got {} with {}",
            t.begin + n, layer + 1, t.n_experts, expert, gate);
      experts[size_t(count)] = expert, gates[size_t(count)] = gate;
      sum += double(gate);
      ++count;
    }
  }
};

void close_batch(LayerCounts& c) {
  const double total = std::accumulate(c.batch_loads.begin(), c.batch_loads.end(), 0.0);
  if (total > 0) {
    c.batch_violation += max_violation(c.batch_loads);
    ++c.batches;
  }
  std::ranges::fill(c.batch_loads, 0.0);
  c.batch_tokens = 0;
}

}  // namespace

LayerCounts::LayerCounts(int layer, int n_experts, int topics)
    : layer(layer),
      n_experts(n_experts),
      topics(topics),
      gates(topics, n_experts),
      first_gates(topics, n_experts),
      shares(topics, n_experts),
      choice_shares(topics, n_experts),
      choices(topics, n_experts),
      topic_tokens(size_t(topics), 0.0),
      topic_firsts(size_t(topics), 0.0),
      topic_routed(size_t(topics), 0.0),
      together(n_experts, n_experts),
      batch_loads(size_t(n_experts), 0.0) {}

void LayerCounts::add(const TokenTrace& t) {
  CHECK(t.n_experts == n_experts && t.topics == topics && layer < t.layers,
        "trace: a chunk of {} experts, {} topics, {} layers for the counts of {} experts, {} topics, layer {}",
        t.n_experts, t.topics, t.layers, n_experts, topics, layer);
  Choices choice(t.slots);
  for (int64_t n = 0; n < t.tokens; ++n) {
    const int topic = t.topic.empty() ? 0 : t.topic[size_t(n)];
    if (topic < 0 || topic >= topics) fail_input("trace: token {} has topic {} of {}", t.begin + n, topic, topics);
    const bool first = !t.first.empty() && t.first[size_t(n)] != 0;
    choice.read(t, layer, n);
    ++tokens, topic_tokens[size_t(topic)] += 1, topic_firsts[size_t(topic)] += first;
    for (int k = 0; k < choice.count; ++k) {
      const int e = choice.experts[size_t(k)];
      const double gate = double(choice.gates[size_t(k)]);
      gates(topic, e) += gate;
      if (first) first_gates(topic, e) += gate;
      if (choice.sum > 0) shares(topic, e) += gate / choice.sum;
      choices(topic, e) += 1;
      choice_shares(topic, e) += 1.0 / choice.count;
      batch_loads[size_t(e)] += gate;
      for (int i = 0; i < k; ++i) {
        together(e, choice.experts[size_t(i)]) += 1;
        together(choice.experts[size_t(i)], e) += 1;
      }
    }
    if (!(choice.sum > 0)) {
      ++unrouted;
    } else {
      topic_routed[size_t(topic)] += 1;
      margin += double(choice.gates[0]) - (choice.count > 1 ? double(choice.gates[1]) : 0.0);
      gate_entropy += entropy_bits(choice.gates.data(), choice.count, choice.sum);
      even_entropy += std::log2(double(choice.count));
    }
    if (!t.entropy.empty()) entropy += double(t.entropy[size_t(n * t.layers + layer)]);
    if (++batch_tokens == kBatchTokens) close_batch(*this);
  }
  entropy_known = entropy_known || !t.entropy.empty();
  if (!t.word.empty()) add_words(t);
}

void LayerCounts::add_words(const TokenTrace& t) {
  const int32_t rows = t.tokens > 0 ? *std::max_element(t.word.begin(), t.word.end()) + 1 : 0;
  if (size_t(rows) > words.size()) {
    words.resize(size_t(rows), 0);
    words_experts.resize(size_t(rows) * size_t(n_experts), 0);
  }
  for (int64_t n = 0; n < t.tokens; ++n) {
    const size_t row = size_t(t.word[size_t(n)]), at = size_t((n * t.layers + layer) * t.slots);
    ++words[row];
    for (int k = 0; k < t.slots; ++k)
      if (const int e = t.experts[at + size_t(k)]; e >= 0) ++words_experts[row * size_t(n_experts) + size_t(e)];
  }
}

double LayerCounts::experts_a_token() const {
  return std::accumulate(choices.values.begin(), choices.values.end(), 0.0) / std::max(double(tokens), 1.0);
}

void check_sizes(const TokenTrace& t) {
  const size_t size = size_t(t.tokens) * size_t(t.layers) * size_t(t.slots);
  if (t.experts.size() != size || t.gates.size() != size)
    fail_input("trace: expected {} × {} × {} experts and gates, got {} and {}", t.tokens, t.layers, t.slots,
               t.experts.size(), t.gates.size());
  for (const auto& [name, length] :
       {std::pair{"topic", t.topic.size()}, {"first", t.first.size()}, {"word", t.word.size()}})
    if (length != 0 && length != size_t(t.tokens))
      fail_input("trace: expected a {} a token ({}), got {}", name, t.tokens, length);
}

LayerCounts counts_of(const TokenTrace& trace, int layer) {
  CHECK(layer >= 0 && layer < trace.layers, "trace: layer {} of {}", layer, trace.layers);
  check_sizes(trace);
  LayerCounts counts(layer, trace.n_experts, trace.topics);
  counts.add(trace);
  return counts;
}

std::optional<double> word_specialisation(const LayerCounts& c) {
  double sum = 0;
  int64_t often = 0;
  for (size_t row = 0; row < c.words.size(); ++row) {
    if (c.words[row] < kLeastWord) continue;
    const auto begin = c.words_experts.begin() + long(row) * c.n_experts;
    sum += double(*std::max_element(begin, begin + c.n_experts)) / double(c.words[row]);
    ++often;
  }
  return often > 0 ? std::optional(sum / double(often)) : std::nullopt;
}

Matrix co_activation(const LayerCounts& c) {
  Matrix m = c.together;
  for (int i = 0; i < c.n_experts; ++i) {
    double chosen = 0;
    for (int topic = 0; topic < c.topics; ++topic) chosen += c.choices(topic, i);
    for (int j = 0; j < c.n_experts; ++j) m(i, j) /= std::max(chosen, 1.0);
  }
  return m;
}

Matrix topic_choices(const LayerCounts& c) {
  Matrix m = c.choices;
  for (int topic = 0; topic < c.topics; ++topic)
    for (int e = 0; e < c.n_experts; ++e) m(topic, e) /= std::max(c.topic_tokens[size_t(topic)], 1.0);
  return m;
}

}  // namespace glia::results
