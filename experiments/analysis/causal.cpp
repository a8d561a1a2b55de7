#include "experiments/analysis/causal.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "engine/core/check.h"
#include "experiments/tasks/next_words.h"
#include "moe/layer_walk.h"

namespace glia {
namespace {

using results::Matrix;

// Never chosen, and without weight where it has to be.
constexpr float kForbidden = -1e9f;

const Parameter* of_router(const Model& model, size_t layer, const char* name) {
  return model.parameters().find(fmt::format("encoder.layer.{}.moe.router.{}", layer, name));
}

// All that is added to an expert's claim: to its logit, to its place in the sequence's subset (thor), and to the score that
// is compared (load_bias). A sigmoid of a forbidden logit is 0, which a load bias would lift above the others.
std::vector<Tensor> claims_of(const Model& model, size_t layer) {
  std::vector<Tensor> claims;
  for (const char* name : {"token.bias", "subset.bias"})
    if (const Parameter* bias = of_router(model, layer, name)) claims.push_back(bias->var.value());
  const std::string load_bias = fmt::format("encoder.layer.{}.moe.router.load_bias", layer);
  for (const State& state : model.parameters().states())
    if (state.name == load_bias) claims.push_back(state.value);
  return claims;
}

// The routers' biases with some experts forbidden, as long as it lives.
class MaskedBiases {
 public:
  MaskedBiases(Model& model, const Allowed& allowed) {
    for (size_t l = 0; l < allowed.size(); ++l)
      for (const Tensor& value : claims_of(model, l)) {
        std::vector<float> masked = value.to_vector<float>();
        CHECK(allowed[l].size() <= masked.size(), "knock-out: {} experts of {} logits", allowed[l].size(),
              masked.size());
        for (size_t e = 0; e < allowed[l].size(); ++e)  // columns outside the experts stay open
          if (!allowed[l][e]) masked[e] = kForbidden;
        old_.emplace_back(value, value.clone());
        old_.back().first.copy_from(from_vector(model.context(), masked, value.shape(), value.dtype()));
      }
  }
  ~MaskedBiases() {
    for (auto& [value, old] : old_) value.copy_from(old);
  }
  MaskedBiases(const MaskedBiases&) = delete;
  MaskedBiases& operator=(const MaskedBiases&) = delete;

 private:
  std::vector<std::pair<Tensor, Tensor>> old_;
};

Causal::Measure measure_of(const Evaluator& evaluator) {
  switch (evaluator.task().targets) {
    case TaskRow::Targets::kNextWords: return Causal::Measure::kNatsAWord;
    case TaskRow::Targets::kMaskedWords: return Causal::Measure::kNatsAPiece;
    case TaskRow::Targets::kLabels: break;
  }
  return Causal::Measure::kAccuracy;
}

// What a model says of the evaluator's rows: topics, or what a topic's words cost and how many they are.
class Answers {
 public:
  // `vocabulary`: of a language model's words; null for topics.
  Answers(const Evaluator& evaluator, const Vocabulary* vocabulary, int topics)
      : measure_(measure_of(evaluator)), nats_(size_t(topics)), words_(size_t(topics)) {
    if (vocabulary) begins_word_.emplace(*vocabulary);
  }

  void add(const Batch& batch, const Tensor& logits, const Tensor& row_losses) {
    const std::vector<int32_t> labels = batch.labels.to_vector<int32_t>();
    if (measure_ == Causal::Measure::kAccuracy) add_topics(predictions_, labels, logits);
    else add_words(batch, labels, row_losses);
    rows_ += int64_t(labels.size());
  }
  static void add_topics(Predictions& p, const std::vector<int32_t>& labels, const Tensor& logits) {
    const std::vector<float> rows = logits.to_vector<float>();
    const int64_t classes = logits.size(1);
    for (size_t b = 0; b < labels.size(); ++b) {
      const auto begin = rows.begin() + long(b) * classes;
      p.predicted.push_back(int32_t(std::max_element(begin, begin + classes) - begin));
      p.labels.push_back(labels[b]);
    }
  }

  int64_t rows() const { return rows_; }
  double value() const {
    if (measure_ == Causal::Measure::kAccuracy) return predictions_.accuracy();
    return std::reduce(nats_.begin(), nats_.end()) / std::reduce(words_.begin(), words_.end());
  }
  std::vector<double> by_topic() const {  // [C]
    if (measure_ == Causal::Measure::kAccuracy) return predictions_.class_accuracy(int(nats_.size()));
    std::vector<double> values;
    for (size_t c = 0; c < nats_.size(); ++c) values.push_back(nats_[c] / words_[c]);
    return values;
  }
  Predictions predictions() const { return predictions_; }

 private:
  void add_words(const Batch& batch, const std::vector<int32_t>& labels, const Tensor& row_losses) {
    const auto losses = row_losses.to_vector<double>();
    const auto read = batch.read.to_vector<int32_t>(), targets = batch.targets.to_vector<int32_t>(),
               sequence_of = batch.sequences.sequence_of.to_vector<int32_t>();
    const bool pieces = measure_ == Causal::Measure::kNatsAPiece;
    const std::vector<int32_t> before = before_targets(batch.ids.to_vector<int32_t>().data(), read);
    for (size_t i = 0; i < read.size(); ++i) {
      if (read[i] < 0 || targets[i] < 0) continue;
      const auto topic = size_t(labels[size_t(sequence_of[size_t(read[i])])]);
      nats_[topic] += losses[i];
      words_[topic] += pieces || (*begins_word_)(before[i], targets[i]);
    }
  }

  Causal::Measure measure_;
  std::optional<WordBeginnings> begins_word_;
  Predictions predictions_;
  std::vector<double> nats_, words_;  // [C]
  int64_t rows_ = 0;
};

// Every layer's choices changed token by token on the way.
Answers ask_changed(const Model& model, const Evaluator& evaluator, Answers answers,
                    const std::function<void(size_t layer, Choices&, size_t begin)>& change) {
  evaluator.for_each_batch([&](const Batch& batch) {
    const Head::Result head = walk(model, batch, [&](const WalkedLayer& layer, FeedForward::Result& result) {
      routed_layer(layer);
      Choices choices(result.routing);
      for (size_t at = 0; at < choices.experts.size(); at += size_t(choices.slots))
        change(layer.number, choices, at);
      replace_choices(layer, result, choices);
    });
    answers.add(batch, head.logits.value(), head.row_losses);
  });
  return answers;
}

// The slot of a token's largest gate, or −1 for a token without experts.
int64_t first_slot(const Choices& c, size_t begin) {
  int64_t best = -1;
  for (int64_t k = 0; k < c.slots; ++k)
    if (c.experts[begin + size_t(k)] >= 0 &&
        (best < 0 || c.gates[begin + size_t(k)] > c.gates[begin + size_t(best)]))
      best = k;
  return best;
}

// Keeps the first choice alone, or all but it; what is left has the gates' former sum.
void keep_first(Choices& c, size_t begin, bool keep) {
  const int64_t first = first_slot(c, begin);
  double before = 0, after = 0;
  for (int64_t k = 0; k < c.slots; ++k) {
    const size_t at = begin + size_t(k);
    before += c.gates[at];
    if ((k == first) != keep) c.experts[at] = -1, c.gates[at] = 0;
    after += c.gates[at];
  }
  for (int64_t k = 0; k < c.slots && after > 0; ++k) c.gates[begin + size_t(k)] *= before / after;
}

Allowed all_allowed(size_t layers, size_t experts) { return Allowed(layers, std::vector<char>(experts, 1)); }

// The m experts of each layer that have most of a topic's gates.
Allowed busiest(const std::vector<Matrix>& utilisation, int topic, int m) {
  Allowed allowed;
  for (const Matrix& u : utilisation) {
    std::vector<int> order(static_cast<size_t>(u.cols));
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, [&](int a, int b) { return u(topic, a) > u(topic, b); });
    auto& layer = allowed.emplace_back(order.size(), 0);
    for (int i = 0; i < m; ++i) layer[size_t(order[size_t(i)])] = 1;
  }
  return allowed;
}

TokenSplit rows_of(const TokenSplit& split, int topic) {
  TokenSplit part;
  for (int64_t row = 0; row < split.size(); ++row)
    if (split.labels[size_t(row)] == topic) part.append(split, row);
  return part;
}

}  // namespace

bool masks_logits(const Model& model) {
  for (size_t l = 0; l < model.bert().layers.size(); ++l)  // "before": −1e9 would go on to the next layer's logits
    if (!of_router(model, l, "token.bias") || of_router(model, l, "before")) return false;
  return true;
}

namespace {

// `empty` answers, filled with what the model says with the allowed experts.
Answers ask(Model& model, const Evaluator& evaluator, Answers empty, const Allowed& allowed = {}) {
  const NoGrad no_grad(model.context());
  if (!allowed.empty() && !masks_logits(model))
    return ask_changed(model, evaluator, std::move(empty), [&](size_t layer, Choices& c, size_t begin) {
      for (int64_t k = 0; k < c.slots; ++k)
        if (int32_t& e = c.experts[begin + size_t(k)]; e >= 0 && !allowed[layer][size_t(e)])
          e = -1, c.gates[begin + size_t(k)] = 0;
    });
  const MaskedBiases masked(model, allowed);
  evaluator.for_each_batch([&](const Batch& batch) {
    const Model::Output out = model.forward(batch, false);
    empty.add(batch, out.logits.value(), out.row_losses);
  });
  return empty;
}

}  // namespace

Predictions predict(Model& model, const Evaluator& evaluator, const Allowed& allowed) {
  if (measure_of(evaluator) != Causal::Measure::kAccuracy)
    fail_input("predictions: expected a task that names topics, got {}", evaluator.task().name);
  return ask(model, evaluator, Answers(evaluator, nullptr, 0), allowed).predictions();
}

Causal knock_out(Model& model, const Evaluator& evaluator, const TokenSplit& split, const Options& options,
                 const Vocabulary& vocabulary, const std::vector<Matrix>& utilisation,
                 const std::vector<std::string>& topics) {
  const size_t layers = utilisation.size(), experts = size_t(model.config().moe.n_experts);
  const int classes = int(topics.size());
  require_routed(model);  // before hours of evaluations
  const Answers empty(evaluator, &vocabulary, classes);
  const Answers whole = ask(model, evaluator, empty);
  Causal c;
  c.measure = measure_of(evaluator);
  c.masked = masks_logits(model), c.rows = whole.rows(), c.topics = topics;
  c.whole = whole.value(), c.topic_whole = whole.by_topic();
  const auto lost = [&](double now, double whole) {
    return c.measure == Causal::Measure::kAccuracy ? whole - now : now - whole;
  };
  for (size_t l = 0; l < layers; ++l) {
    c.lost.emplace_back();
    Matrix& by_topic = c.lost_by_topic.emplace_back(classes, int(experts));
    for (size_t e = 0; e < experts; ++e) {
      Allowed allowed = all_allowed(layers, experts);
      allowed[l][e] = 0;
      const Answers without = ask(model, evaluator, empty, allowed);
      c.lost.back().push_back(lost(without.value(), c.whole));
      const std::vector<double> now = without.by_topic();
      for (int topic = 0; topic < classes; ++topic)
        by_topic(topic, int(e)) = lost(now[size_t(topic)], c.topic_whole[size_t(topic)]);
    }
  }
  for (int m = 1; m < int(experts); m *= 2) c.kept.push_back(m);
  c.kept.push_back(int(experts));
  c.kept_alone = Matrix(classes, int(c.kept.size()));
  const TokenSplit asked = part_of(split, options.utilisation_rows);  // the evaluator's own rows
  for (int topic = 0; topic < classes; ++topic) {
    const TokenSplit part = rows_of(asked, topic);
    std::fill_n(c.kept_alone.values.begin() + long(topic) * long(c.kept.size()), c.kept.size(), std::nan(""));
    if (part.size() == 0) continue;
    const Evaluator of_topic(model, part, options, vocabulary);
    for (size_t i = 0; i < c.kept.size(); ++i)
      c.kept_alone(topic, int(i)) = ask(model, of_topic, empty, busiest(utilisation, topic, c.kept[i])).value();
  }
  for (const bool keep : {false, true})
    (keep ? c.first_alone : c.without_first) =
        ask_changed(model, evaluator, empty, [&](size_t, Choices& choices, size_t begin) {
          keep_first(choices, begin, keep);
        }).value();
  return c;
}

}  // namespace glia
