#include "nn/bag.h"

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/sequences/ngrams.h"

namespace glia {

// The word table is no add_table(): a bag's is small beside its n-grams', and the optimiser lets only one table's rows wait.
Bag::Bag(ParameterSet& set, const BertConfig& c, const BagConfig& bag)
    : words_(set.add("embeddings.word.weight", {c.vocabulary, c.hidden}, Init::normal(c.init_std), true)),
      buckets_(bag.buckets) {
  for (int64_t n = 2; n <= bag.longest; ++n)
    ngrams_.push_back(set.add(fmt::format("embeddings.ngram.{}.weight", n), {bag.buckets, c.hidden},
                              Init::normal(c.init_std), true));
}

Var Bag::forward(const Tensor& ids, const Pass& pass) const {
  Var sum = embedding(words_->var, ids, pass.compute);  // [T, H]
  for (size_t i = 0; i < ngrams_.size(); ++i) {
    const Tensor rows = ngram_rows(ids, pass.sequences, static_cast<int64_t>(i) + 2, buckets_);
    sum = add(sum, embedding(ngrams_[i]->var, rows, pass.compute));
  }
  return sequence_mean(sum, pass.sequences, false);
}

}  // namespace glia
