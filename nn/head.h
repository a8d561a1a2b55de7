// What stands on an encoder: from the rows of the last layer that a task reads to its logits and its loss. An encoder knows no head, a head no task.
#pragma once
#include <functional>
#include <memory>

#include "nn/embedding.h"
#include "nn/linear.h"

namespace glia {

class Head {
 public:
  virtual ~Head() = default;
  struct Result {
    Var logits;         // [R, C], float32 (float64 for float64); undefined where a head never holds all of them
    Var loss;           // [] mean over the rows with a target; undefined without targets
    Tensor row_losses;  // [R] of each row, 0 without a target; undefined where the loss op does not give them
    Tensor sums;  // [3] Σ row losses, rows with a target, those predicted right; [6] of two losses; or undefined
  };
  // hidden [R, H]; targets int32 [R] (−1: none, where the head allows it) or undefined: no loss.
  virtual Result forward(const Var& hidden, const Tensor& targets, const Pass& pass) const = 0;
};

// Declares a head's parameters, behind the encoder's.
using MakeHead = std::function<std::unique_ptr<Head>(ParameterSet&, const BertConfig&, const Embeddings&)>;

// BERT's pooler and a linear layer: logits = classifier(dropout(tanh(pooler(x)))).     parameters "pooler.…", "classifier.…"
class ClassificationHead : public Head {
 public:
  ClassificationHead(ParameterSet& set, const BertConfig& config);
  Result forward(const Var& hidden, const Tensor& targets, const Pass& pass) const override;
  // What the classifier reads, float32 (float64): it is tiny and its output decides, so neither logits nor loss are rounded to 16 bits.
  Var pooled(const Var& hidden, const Pass& pass) const;

  Linear pooler, classifier;  // [H, H], [C, H]

 private:
  int layers_;
};
std::unique_ptr<Head> make_classification_head(ParameterSet& set, const BertConfig& config, const Embeddings&);

// One linear layer, logits = classifier(x): for what is no transformer's row.     parameters "classifier.…"
class LinearHead : public Head {
 public:
  LinearHead(ParameterSet& set, const BertConfig& config);
  Result forward(const Var& hidden, const Tensor& targets, const Pass& pass) const override;

  Linear classifier;  // [C, H]
};
std::unique_ptr<Head> make_linear_head(ParameterSet& set, const BertConfig& config);

// BERT's masked-LM head: logits = norm(gelu(transform(x))) Wᵀ + bias, W the table of the words ("tied"). Parameters
// "mlm.transform.…", "mlm.norm.…", "mlm.bias". The logits are never whole in memory (vocabulary_loss).
//
// The table is read by every row's softmax, so each of its rows has a gradient in each step: with lazy rows
// (AdamW's rows_wait) none waits then, which is found out at run time and needs no flag.
class MaskedLmHead : public Head {
 public:
  MaskedLmHead(ParameterSet& set, const BertConfig& config, const Embeddings& embeddings);
  Result forward(const Var& hidden, const Tensor& targets, const Pass& pass) const override;

  Linear transform;  // [H, H]
  LayerNorm norm;
  Parameter* bias;         // [V]
  const Parameter* words;  // [V, H], the embeddings'
};
// A language model's head: logits = x Wᵀ + bias, W the table of the words, of which loss and parameters are as above:
// "lm.bias". What x is normed by stands in the encoder.
class CausalLmHead : public Head {
 public:
  CausalLmHead(ParameterSet& set, const BertConfig& config, const Embeddings& embeddings);
  Result forward(const Var& hidden, const Tensor& targets, const Pass& pass) const override;
  // All logits, float32 (float64), for whoever chooses a word.     hidden [R, H] → [R, V]
  Var logits(const Var& hidden) const;

  Parameter* bias;         // [V]
  const Parameter* words;  // [V, H], the embeddings'
};
std::unique_ptr<Head> make_causal_lm_head(ParameterSet& set, const BertConfig& config,
                                          const Embeddings& embeddings);

std::unique_ptr<Head> make_masked_lm_head(ParameterSet& set, const BertConfig& config,
                                          const Embeddings& embeddings);

}  // namespace glia
