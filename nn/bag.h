// A bag of n-grams, the classifier that needs no encoder (Joulin et al. 2016, arXiv 1607.01759, fastText): a sequence is the
// mean over its tokens of the token's row plus the rows of the n-grams that end there. Word order counts within n tokens
// only, and nothing is computed between rows; a linear layer stands behind it (make_linear_head).
#pragma once
#include "nn/bert_config.h"
#include "nn/parameters.h"
#include "nn/pass.h"

namespace glia {

struct BagConfig {
  int64_t longest = 0;       // N: n-grams of 2 … N tokens beside the single ones; 0: the model is no bag
  int64_t buckets = 131072;  // rows of each table of n-grams

  bool used() const { return longest > 0; }
};

// Parameters "embeddings.word.weight" [V, H] and "embeddings.ngram.N.weight" [buckets, H]
class Bag {
 public:
  Bag(ParameterSet& set, const BertConfig& config, const BagConfig& bag);
  // ids int32 [T] → [B, H] in the pass's dtype
  Var forward(const Tensor& ids, const Pass& pass) const;

 private:
  Parameter* words_;
  std::vector<Parameter*> ngrams_;  // of 2, 3, … tokens
  int64_t buckets_;
};

}  // namespace glia
