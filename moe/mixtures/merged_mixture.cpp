// SMEAR (Muqeeth et al. 2023): the experts' weights are averaged for each sequence, by a router that has read all of it,
// and the sequence passes through that one FFN.
#include "engine/ops/loss/softmax.h"
#include "engine/ops/moe/moe.h"
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
    r.y = run(p, first ? pass.read_rows(x) : x, first ? pass.first_rows : q);
    if (read_rows_only && !first) r.y = pass.read_rows(r.y);
    r.x = read_rows_only ? pass.read_rows(x) : x;
    return r;
  }

 private:
  // Σ_e p_be FFN's weights_e of each sequence, applied to its rows, which are a group. A GPU's experts run on tiles of rows that
  // lie in one group: the rows go there and back, which costs less than anything without tiles (BENCHMARKS.md).
  Var run(const Var& p, const Var& x, const Sequences& q) const {
    const auto merged = [&](const Parameter* w) { return merge_experts(p, w->var, x.dtype()); };
    const Var up = merged(experts_.up_weight), up_bias = merged(experts_.up_bias),
              down = merged(experts_.down_weight), down_bias = merged(experts_.down_bias);
    const int64_t alignment = expert_alignment(x.context(), x.dtype());
    if (alignment == 1 || q.count > kMostDispatched)
      return expert_ffn_reference(x, up, up_bias, down, down_bias, q.offsets);
    const Dispatch d = make_dispatch(q.sequence_of.reshape({q.tokens, 1}), q.count, alignment);
    const Tensor ones = full(x.context(), {q.tokens, 1}, 1, accumulation_dtype(x.dtype()));
    return combine_rows(expert_ffn(dispatch_rows(x, d), up, up_bias, down, down_bias, d.offsets), ones, d);
  }
};

}  // namespace

std::unique_ptr<Mixture> make_merged(ParameterSet& set, const std::string& layer_name, const MoeConfig& config,
                                     const BertConfig& bert, int layer) {
  return std::make_unique<MergedMixture>(set, layer_name, config, bert, layer);
}

}  // namespace glia
