// Multi-head self-attention; queries, keys and values come from one linear layer.
#pragma once
#include "nn/bert_config.h"
#include "nn/layer_norm.h"
#include "nn/linear.h"
#include "nn/pass.h"

namespace glia {

struct SelfAttention {
  Linear qkv, output;  // [3H, H] = rows of q, k, v; [H, H]
  LayerNorm norm;
  int64_t heads;
  int layer;
  bool causal, pre_norm, rotary;  // as in BertConfig

  SelfAttention(ParameterSet& set, const std::string& name, const BertConfig& config, int layer);

  // What the heads see, before the output projection; with pre_norm of layer_norm(x).     x [T, H] → [T, H], or with
  // first_rows_only the first row of each sequence: [B, H]
  Var mix(const Var& x, const Pass& pass, bool first_rows_only = false) const;
  // layer_norm(x + dropout(output(mixed))), without that norm with pre_norm.     mixed, x [rows, H] → [rows, H], all rows or those that are read
  Var finish(const Var& mixed, const Var& x, const Pass& pass, bool read_rows_only = false) const;
};

}  // namespace glia
