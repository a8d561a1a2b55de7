#include "nn/head.h"

#include "engine/ops/elementwise/dropout.h"
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/loss/vocabulary_loss.h"

namespace glia {

namespace {

// The classifier is tiny and its output decides: float32, so that neither logits nor loss are rounded to 16 bits.
Head::Result classify(const Linear& classifier, const Var& x, const Tensor& targets) {
  Head::Result r;
  r.logits = classifier(x.dtype() == DType::kBFloat16 ? cast(x, DType::kFloat32) : x);
  if (targets.defined()) r.loss = cross_entropy(r.logits, targets);
  return r;
}

}  // namespace

ClassificationHead::ClassificationHead(ParameterSet& set, const BertConfig& c)
    : pooler(set, "pooler", c.hidden, c.hidden, c.init_std, true),
      classifier(set, "classifier", c.hidden, c.classes, c.init_std),
      layers_(static_cast<int>(c.layers)) {}

Var ClassificationHead::pooled(const Var& x, const Pass& pass) const {
  const Var y =
      dropout(tanh(pooler(x)), pass.dropout, pass.dropout_key(x.context(), dropout_site::pooler(layers_), true));
  return y.dtype() == DType::kBFloat16 ? cast(y, DType::kFloat32) : y;
}

Head::Result ClassificationHead::forward(const Var& x, const Tensor& targets, const Pass& pass) const {
  Result r;
  r.logits = classifier(pooled(x, pass));
  if (targets.defined()) r.loss = cross_entropy(r.logits, targets);
  return r;
}

std::unique_ptr<Head> make_classification_head(ParameterSet& set, const BertConfig& config, const Embeddings&) {
  return std::make_unique<ClassificationHead>(set, config);
}

LinearHead::LinearHead(ParameterSet& set, const BertConfig& c)
    : classifier(set, "classifier", c.hidden, c.classes, c.init_std) {}

Head::Result LinearHead::forward(const Var& x, const Tensor& targets, const Pass&) const {
  return classify(classifier, x, targets);
}

std::unique_ptr<Head> make_linear_head(ParameterSet& set, const BertConfig& config) {
  return std::make_unique<LinearHead>(set, config);
}

MaskedLmHead::MaskedLmHead(ParameterSet& set, const BertConfig& c, const Embeddings& embeddings)
    : transform(set, "mlm.transform", c.hidden, c.hidden, c.init_std, true),
      norm(set, "mlm.norm", c.hidden, c.layer_norm_eps),
      bias(set.add("mlm.bias", {c.vocabulary}, Init::zero(), false)),
      words(embeddings.word) {}

namespace {

// Of rows in the words' space; none without targets.
Head::Result loss_over_words(const Var& x, const Parameter& words, const Parameter& bias, const Tensor& targets) {
  if (words.before_read) words.before_read({});  // all rows are read
  VocabularyLoss v = vocabulary_loss(x, words.var, bias.var, targets);
  return {{}, std::move(v.loss), std::move(v.row_losses), std::move(v.sums)};
}

}  // namespace

Head::Result MaskedLmHead::forward(const Var& x, const Tensor& targets, const Pass&) const {
  if (!targets.defined()) return {};  // whoever wants words asks for them row by row
  return loss_over_words(norm(gelu(transform(x))), *words, *bias, targets);
}

CausalLmHead::CausalLmHead(ParameterSet& set, const BertConfig& c, const Embeddings& embeddings)
    : bias(set.add("lm.bias", {c.vocabulary}, Init::zero(), false)), words(embeddings.word) {}

Head::Result CausalLmHead::forward(const Var& x, const Tensor& targets, const Pass&) const {
  if (!targets.defined()) return {};
  return loss_over_words(x, *words, *bias, targets);
}

Var CausalLmHead::logits(const Var& x) const {
  const DType wide = accumulation_dtype(x.dtype());
  if (words->before_read) words->before_read({});
  return cast(linear(x, words->var, bias->var), wide);
}

std::unique_ptr<Head> make_causal_lm_head(ParameterSet& set, const BertConfig& config,
                                          const Embeddings& embeddings) {
  return std::make_unique<CausalLmHead>(set, config, embeddings);
}

std::unique_ptr<Head> make_masked_lm_head(ParameterSet& set, const BertConfig& config,
                                          const Embeddings& embeddings) {
  return std::make_unique<MaskedLmHead>(set, config, embeddings);
}

}  // namespace glia
