#include "nn/embedding.h"

#include "engine/ops/dropout.h"
#include "engine/ops/rows.h"

namespace glia {

Embeddings::Embeddings(ParameterSet& set, const std::string& name, const BertConfig& c)
    : word(set.add(name + ".word.weight", {c.vocabulary, c.hidden}, Init::normal(c.init_std), true)),
      position(set.add(name + ".position.weight", {c.positions, c.hidden}, Init::normal(c.init_std), true)),
      type(set.add(name + ".type.weight", {c.types, c.hidden}, Init::normal(c.init_std), true)),
      norm(set, name + ".norm", c.hidden, c.layer_norm_eps) {}

Var Embeddings::operator()(const Tensor& ids, const Pass& pass) const {
  // All tokens have type 0 here.
  const Var x = norm(input_embedding({word->var, position->var, type->var}, ids, pass.sequences, pass.compute, pass.order));
  return dropout(x, pass.dropout, pass.dropout_key(x.context(), dropout_site::kEmbedding));
}

}  // namespace glia
