#include "nn/embedding.h"

#include "engine/ops/elementwise/dropout.h"
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/rows/rows.h"
#include "nn/row_cache.h"

namespace glia {

Embeddings::Embeddings(ParameterSet& set, const std::string& name, const BertConfig& c)
    : word(set.add_table(name + ".word.weight", {c.vocabulary, c.hidden}, Init::normal(c.init_std))),
      position(c.rotary
                   ? nullptr
                   : set.add(name + ".position.weight", {c.positions, c.hidden}, Init::normal(c.init_std), true)),
      type(set.add(name + ".type.weight", {c.types, c.hidden}, Init::normal(c.init_std), true)),
      set_(set) {
  if (!c.pre_norm) norm.emplace(set, name + ".norm", c.hidden, c.layer_norm_eps);
}

Var Embeddings::operator()(const Tensor& ids, const Pass& pass) const {
  const bool rows_wait = word->before_read != nullptr;
  if (rows_wait) word->before_read(pass.order);
  // All tokens have type 0 here.
  const Var places =
      !position ? Var(zeros(word->var.context(), {pass.sequences.max_length, word->var.size(1)}, word->var.dtype()))
      : pass.cache ? rows(position->var, pass.cache->rows(), position->var.size(0))
                   : position->var;
  // Ranks send each other these gradients as they send those of products.
  const DType gathered = set_.low_size() > 0 ? pass.compute : word->var.dtype();
  const Var x =
      input_embedding({word->var, places, type->var, gathered}, ids, pass.sequences, pass.compute, pass.order,
                      rows_wait && pass.order.defined() ? &word->touched : nullptr, pass.words_later);
  const RandomKey key = pass.dropout_key(x.context(), dropout_site::kEmbedding);
  return norm ? norm->dropped(x, pass.dropout, key) : dropout(x, pass.dropout, key);
}

}  // namespace glia
