#include "nn/embedding.h"

#include "engine/ops/rows/rows.h"

namespace glia {

Embeddings::Embeddings(ParameterSet& set, const std::string& name, const BertConfig& c)
    : word(set.add_table(name + ".word.weight", {c.vocabulary, c.hidden}, Init::normal(c.init_std))),
      position(set.add(name + ".position.weight", {c.positions, c.hidden}, Init::normal(c.init_std), true)),
      type(set.add(name + ".type.weight", {c.types, c.hidden}, Init::normal(c.init_std), true)),
      norm(set, name + ".norm", c.hidden, c.layer_norm_eps) {}

Var Embeddings::operator()(const Tensor& ids, const Pass& pass) const {
  const bool rows_wait = word->before_read != nullptr;
  if (rows_wait) word->before_read(pass.order);
  // All tokens have type 0 here.
  const Var x = input_embedding({word->var, position->var, type->var}, ids, pass.sequences, pass.compute,
                                pass.order, rows_wait && pass.order.defined() ? &word->touched : nullptr);
  return norm.dropped(x, pass.dropout, pass.dropout_key(x.context(), dropout_site::kEmbedding));
}

}  // namespace glia
