#include "nn/attention.h"

#include "engine/ops/attention/self_attention.h"

namespace glia {

SelfAttention::SelfAttention(ParameterSet& set, const std::string& name, const BertConfig& c, int layer)
    : qkv(set, name + ".qkv", c.hidden, 3 * c.hidden, c.init_std, true),
      output(set, name + ".output", c.hidden, c.hidden, c.init_std, true),
      norm(set, name + ".norm", c.hidden, c.layer_norm_eps),
      heads(c.heads),
      layer(layer) {
  CHECK(c.hidden % c.heads == 0, "attention: hidden size {} is not a multiple of {} heads", c.hidden, c.heads);
}

Var SelfAttention::mix(const Var& x, const Pass& pass, bool first_rows_only) const {
  AttentionOptions options;
  options.heads = heads;
  options.dropout = pass.dropout;
  options.key = pass.dropout_key(x.context(), dropout_site::attention(layer));
  return (first_rows_only ? self_attention_first : self_attention)(x, qkv.weight->var, qkv.bias->var,
                                                                   pass.sequences, options);
}

// The output layer's bias is added where its product is read: by the norm, whose gradient sums it on the way.
Var SelfAttention::finish(const Var& mixed, const Var& x, const Pass& pass, bool read_rows_only) const {
  return norm.residual(linear(mixed, output.weight->var), x, pass.dropout,
                       pass.dropout_key(x.context(), dropout_site::attention_output(layer), read_rows_only),
                       output.bias->var);
}

}  // namespace glia
