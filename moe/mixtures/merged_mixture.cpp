// SMEAR (Muqeeth et al. 2023): the experts' weights are averaged for each sequence, by a router that has read all of it,
// and the sequence passes through that one FFN.
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/products/merge_experts.h"
#include "moe/mixtures/mixture_parts.h"

namespace glia {
namespace {

class MergedMixture : public WeighedMixture {
 public:
  // The weights are averaged from their float32 masters: none has its gradient from a product with activations.
  MergedMixture(ParameterSet& set, const std::string& layer_name, const MoeConfig& c, const BertConfig& bert,
                int layer)
      : WeighedMixture(set, layer_name, c, bert, layer, c.n_experts, false) {}

  Result forward(const Var& x, const Pass& pass, bool read_rows_only) const override {
    const Sequences& q = pass.sequences;
    const Routing scored = router_->route(inputs(x, pass));
    const Var logits = sequence_mean(scored.scores, q, false), p = softmax(logits);  // [B, E]
    Result r;
    r.routing = report(sequence_broadcast(p, q), sequence_broadcast(logits, q), scored.matrix, inputs(x, pass));
    const bool first = read_rows_only && !pass.read.defined();
    r.y = run(p, first ? pass.read_rows(x) : x, first ? pass.first_rows.offsets : q.offsets);
    if (read_rows_only && !first) r.y = pass.read_rows(r.y);
    r.x = read_rows_only ? pass.read_rows(x) : x;
    return r;
  }

 private:
  // Σ_e p_be w_e of each sequence, in the type of what it is applied to.     w [E, …] → [B, …]
  static Var merged(const Var& p, const Parameter& w, const Var& x) { return merge_experts(p, w.var, x.dtype()); }
  Var run(const Var& p, const Var& x, const Tensor& offsets) const {
    const Experts& e = experts_;
    const Var inner = gelu(grouped_linear(x, merged(p, *e.up_weight, x), merged(p, *e.up_bias, x), offsets));
    return grouped_linear(inner, merged(p, *e.down_weight, x), merged(p, *e.down_bias, x), offsets);
  }
};

}  // namespace

std::unique_ptr<Mixture> make_merged(ParameterSet& set, const std::string& layer_name, const MoeConfig& config,
                                     const BertConfig& bert, int layer) {
  return std::make_unique<MergedMixture>(set, layer_name, config, bert, layer);
}

}  // namespace glia
