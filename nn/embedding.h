// BERT's input: dropout(layer_norm(word[id] + position[p] + type[0])); without the norm where layers have theirs in
// front (BertConfig::pre_norm), and without positions where those turn queries and keys (BertConfig::rotary).     ids int32 [T] → [T, H]
#pragma once
#include <optional>

#include "nn/bert_config.h"
#include "nn/layer_norm.h"
#include "nn/pass.h"

namespace glia {

struct Embeddings {
  Parameter *word, *position, *type;  // [V, H], [positions, H] or nullptr, [types, H]
  std::optional<LayerNorm> norm;

  Embeddings(ParameterSet& set, const std::string& name, const BertConfig& config);
  Var operator()(const Tensor& ids, const Pass& pass) const;

 private:
  const ParameterSet& set_;
};

}  // namespace glia
