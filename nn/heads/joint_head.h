// Words and topics at once, as TLM trains (Yao et al. 2022, arXiv 2111.04130; docs/science.md 11): loss = (W words + topic) / (W + 1). In a file
// of its own, so that whoever reads texts with one objective knows nothing of two.
#pragma once
#include "nn/head.h"

namespace glia {

// MaskedLmHead's parameters and ClassificationHead's, by their names, so that either of them is started from what this one learnt.
//
// forward() is given the first rows of all sequences of the pass, then the rows of the masked words (data/batches/masking.h), and as
// targets the topics, then the words; −1: none, and a batch without any topic learns from its words alone. row_losses are [R] in that
// order, sums [6]: the words', then the topics'.
class JointHead : public Head {
 public:
  JointHead(ParameterSet& set, const BertConfig& config, const Embeddings& embeddings, double weight);
  Result forward(const Var& hidden, const Tensor& targets, const Pass& pass) const override;

  MaskedLmHead words;
  ClassificationHead topics;

 private:
  double weight_;  // W
};
MakeHead make_joint_head(double weight);

}  // namespace glia
