#include "nn/attention.h"

#include "engine/ops/attention/rotary.h"
#include "engine/ops/attention/self_attention.h"
#include "nn/row_cache.h"

namespace glia {

SelfAttention::SelfAttention(ParameterSet& set, const std::string& name, const BertConfig& c, int layer)
    : qkv(set, name + ".qkv", c.hidden, 3 * c.hidden, c.init_std, true),
      output(set, name + ".output", c.hidden, c.hidden, c.init_std, true),
      norm(set, name + ".norm", c.hidden, c.layer_norm_eps),
      heads(c.heads),
      layer(layer),
      causal(c.causal),
      pre_norm(c.pre_norm),
      rotary(c.rotary) {
  CHECK(c.hidden % c.heads == 0, "attention: hidden size {} is not a multiple of {} heads", c.hidden, c.heads);
}

Var SelfAttention::mix(const Var& x, const Pass& pass, bool first_rows_only) const {
  AttentionOptions options;
  options.heads = heads;
  options.causal = causal;
  options.dropout = pass.dropout;
  options.key = pass.dropout_key(x.context(), dropout_site::attention(layer));
  const Var in = pre_norm ? norm(x) : x;
  if (pass.cache) {
    CHECK(!first_rows_only, "attention: wants all new rows where earlier ones are cached");
    const Var of_new = qkv(in);
    const Tensor all = pass.cache->with_rows(
        layer, (rotary ? rotate(of_new, pass.sequences, heads, pass.cache->rows()) : of_new).value());
    Sequences sequence;
    sequence.count = 1, sequence.tokens = sequence.max_length = all.size(0);
    sequence.offsets = pass.cache->offsets_of(sequence.tokens);
    return attention_from(all, pass.cache->rows(), sequence, options);
  }
  if (rotary) {
    const Var mixed = attention(rotate(qkv(in), pass.sequences, heads), pass.sequences, options);
    return first_rows_only ? first_rows(mixed, pass.sequences) : mixed;
  }
  return (first_rows_only ? self_attention_first : self_attention)(in, qkv.weight->var, qkv.bias->var,
                                                                   pass.sequences, options);
}

// The output layer's bias is added where its product is read: by the norm, whose gradient sums it on the way.
Var SelfAttention::finish(const Var& mixed, const Var& x, const Pass& pass, bool read_rows_only) const {
  const Var y = linear(mixed, output.weight->var);
  const RandomKey key = pass.dropout_key(x.context(), dropout_site::attention_output(layer), read_rows_only);
  if (pre_norm) return add_branch(y, output.bias->var, x, pass.dropout, key);
  return norm.residual(y, x, pass.dropout, key, output.bias->var);
}

}  // namespace glia
