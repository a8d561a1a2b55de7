#include "nn/embedding.h"

#include "engine/ops/bias.h"
#include "engine/ops/dropout.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/rows.h"

namespace glia {

Embeddings::Embeddings(ParameterSet& set, const std::string& name, const BertConfig& c)
    : word(set.add(name + ".word.weight", {c.vocabulary, c.hidden}, Init::normal(c.init_std), true)),
      position(set.add(name + ".position.weight", {c.positions, c.hidden}, Init::normal(c.init_std), true)),
      type(set.add(name + ".type.weight", {c.types, c.hidden}, Init::normal(c.init_std), true)),
      norm(set, name + ".norm", c.hidden, c.layer_norm_eps) {}

Var Embeddings::operator()(const Tensor& ids, const Pass& pass) const {
  // All tokens have type 0 here, so its row is added to the short position table instead of to every token.
  const Var type0 = reshape(rows(type->var, 0, 1), {type->shape[1]});
  const Var words = embedding(word->var, ids, pass.compute);
  const Var places = position_embedding(bias_add(position->var, type0), pass.sequences, pass.compute);
  const Var x = norm.residual(words, places, 0, {});  // [T, H]
  return dropout(x, pass.dropout, pass.dropout_key(x.context(), dropout_site::kEmbedding));
}

}  // namespace glia
