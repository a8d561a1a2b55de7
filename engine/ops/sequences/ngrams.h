// The n-grams of token ids as rows of a table that is smaller than their number: each has the row that a hash of its ids
// names, and different ones may share it (Joulin et al. 2016, arXiv 1607.01759, "hashing trick").
#pragma once
#include "engine/ops/sequences/sequences.h"

namespace glia {

// The row of the n-gram that ends at each token, 0 … buckets − 1; −1 where fewer than n tokens of its sequence have come,
// and in the tail. A constant.     ids int32 [T], n >= 2, buckets >= 1 → int32 [T]
Tensor ngram_rows(const Tensor& ids, const Sequences& sequences, int64_t n, int64_t buckets);

}  // namespace glia
