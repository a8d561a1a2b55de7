#include "nn/heads/joint_head.h"

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/vocabulary_loss.h"

namespace glia {

namespace {

// One behind the other.     a [A], b [B] → [A + B]
Tensor joined(const Tensor& a, const Tensor& b) {
  const int64_t n = a.numel(), all = n + b.numel();
  Tensor both = empty(a.context(), {all}, a.dtype());
  both.rows(0, n).copy_from(a);
  both.rows(n, all).copy_from(b);
  return both;
}

}  // namespace

JointHead::JointHead(ParameterSet& set, const BertConfig& c, const Embeddings& embeddings, double weight)
    : words(set, c, embeddings), topics(set, c), weight_(weight) {
  CHECK(weight > 0, "joint head: wants a weight of the words above 0, got {}", weight);
}

Head::Result JointHead::forward(const Var& x, const Tensor& targets, const Pass& pass) const {
  if (!targets.defined()) return {};
  const int64_t sequences = pass.sequences.count, all = x.size(0);
  CHECK(
      all > sequences && targets.shape() == Shape{all},
      "joint head: wants the first rows of {} sequences, words behind them and a target for each, got {} rows and "
      "targets {}",
      sequences, all, targets.shape());
  const Result w = words.forward(rows(x, sequences, all), targets.rows(sequences, all), pass);
  // A vocabulary of topics: its loss passes over rows without a target.
  const VocabularyLoss t =
      vocabulary_loss(topics.pooled(rows(x, 0, sequences), pass), topics.classifier.weight->var,
                      topics.classifier.bias->var, targets.rows(0, sequences));
  Result r;
  r.loss = scale(add(scale(w.loss, weight_), t.loss), 1 / (weight_ + 1));
  r.row_losses = joined(t.row_losses, w.row_losses);
  r.sums = joined(w.sums, t.sums);
  return r;
}

MakeHead make_joint_head(double weight) {
  return [weight](ParameterSet& set, const BertConfig& config, const Embeddings& embeddings) {
    return std::make_unique<JointHead>(set, config, embeddings, weight);
  };
}

}  // namespace glia
