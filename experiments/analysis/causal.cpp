#include "experiments/analysis/causal.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/core/check.h"
#include "moe/layer_walk.h"

namespace glia {
namespace {

using results::Matrix;

// Never chosen, and without weight where it has to be.
constexpr float kForbidden = -1e9f;

const Parameter* token_bias(const Model& model, size_t layer) {
  return model.parameters().find(fmt::format("encoder.layer.{}.moe.router.token.bias", layer));
}

// The biases of the routers' logits with some experts forbidden, as long as it lives.
class MaskedBiases {
 public:
  MaskedBiases(Model& model, const Allowed& allowed) {
    for (size_t l = 0; l < allowed.size(); ++l) {
      const Tensor value = token_bias(model, l)->var.value();
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

void append(Predictions& p, const Batch& batch, const Tensor& logits) {
  if (!logits.defined()) fail_input("knock-out: the model's task predicts no topics");
  const std::vector<float> rows = logits.to_vector<float>();
  const std::vector<int32_t> labels = batch.labels.to_vector<int32_t>();
  const int64_t classes = logits.size(1);
  for (size_t b = 0; b < labels.size(); ++b) {
    const auto begin = rows.begin() + long(b) * classes;
    p.predicted.push_back(int32_t(std::max_element(begin, begin + classes) - begin));
    p.labels.push_back(labels[b]);
  }
}

// Every layer's choices changed token by token on the way.
Predictions predict_changed(const Model& model, const Evaluator& evaluator,
                            const std::function<void(size_t layer, Choices&, size_t begin)>& change) {
  Predictions p;
  evaluator.for_each_batch([&](const Batch& batch) {
    const Var logits = walk(model, batch, [&](const WalkedLayer& layer, FeedForward::Result& result) {
      routed_layer(layer);
      Choices choices(result.routing);
      for (size_t at = 0; at < choices.experts.size(); at += size_t(choices.slots))
        change(layer.number, choices, at);
      replace_choices(layer, result, choices);
    });
    append(p, batch, logits.value());
  });
  return p;
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
  for (size_t l = 0; l < model.bert().layers.size(); ++l)
    if (!token_bias(model, l)) return false;
  return true;
}

Predictions predict(Model& model, const Evaluator& evaluator, const Allowed& allowed) {
  const NoGrad no_grad(model.context());
  if (!allowed.empty() && !masks_logits(model))
    return predict_changed(model, evaluator, [&](size_t layer, Choices& c, size_t begin) {
      for (int64_t k = 0; k < c.slots; ++k)
        if (int32_t& e = c.experts[begin + size_t(k)]; e >= 0 && !allowed[layer][size_t(e)])
          e = -1, c.gates[begin + size_t(k)] = 0;
    });
  const MaskedBiases masked(model, allowed);
  Predictions p;
  evaluator.for_each_batch(
      [&](const Batch& batch) { append(p, batch, model.forward(batch, false).logits.value()); });
  return p;
}

Causal knock_out(Model& model, const Evaluator& evaluator, const TokenSplit& split, const Options& options,
                 const Vocabulary& vocabulary, const std::vector<Matrix>& utilisation,
                 const std::vector<std::string>& topics) {
  const size_t layers = utilisation.size(), experts = size_t(model.config().moe.n_experts);
  const int classes = int(topics.size());
  Causal c;
  const Predictions whole = predict(model, evaluator);
  c.masked = masks_logits(model), c.rows = int64_t(whole.labels.size()), c.topics = topics;
  c.accuracy = whole.accuracy(), c.class_accuracy = whole.class_accuracy(classes);
  for (size_t l = 0; l < layers; ++l) {
    c.lost.emplace_back();
    Matrix& by_topic = c.lost_by_topic.emplace_back(classes, int(experts));
    for (size_t e = 0; e < experts; ++e) {
      Allowed allowed = all_allowed(layers, experts);
      allowed[l][e] = 0;
      const Predictions p = predict(model, evaluator, allowed);
      c.lost.back().push_back(c.accuracy - p.accuracy());
      const std::vector<double> now = p.class_accuracy(classes);
      for (int topic = 0; topic < classes; ++topic)
        by_topic(topic, int(e)) = c.class_accuracy[size_t(topic)] - now[size_t(topic)];
    }
  }
  for (int m = 1; m < int(experts); m *= 2) c.kept.push_back(m);
  c.kept.push_back(int(experts));
  c.kept_accuracy = Matrix(classes, int(c.kept.size()));
  for (int topic = 0; topic < classes; ++topic) {
    const TokenSplit part = rows_of(split, topic);
    std::fill_n(c.kept_accuracy.values.begin() + long(topic) * long(c.kept.size()), c.kept.size(), std::nan(""));
    if (part.size() == 0) continue;
    const Evaluator of_topic(model, part, options, vocabulary, options.utilisation_rows);
    for (size_t i = 0; i < c.kept.size(); ++i)
      c.kept_accuracy(topic, int(i)) = predict(model, of_topic, busiest(utilisation, topic, c.kept[i])).accuracy();
  }
  for (const bool keep : {false, true})
    (keep ? c.first_alone : c.without_first) =
        predict_changed(model, evaluator, [&](size_t, Choices& choices, size_t begin) {
          keep_first(choices, begin, keep);
        }).accuracy();
  return c;
}

}  // namespace glia
