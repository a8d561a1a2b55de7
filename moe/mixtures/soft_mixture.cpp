// Soft MoE (Puigcerver et al. 2024) within each sequence: experts read slots, each a blend of the sequence's tokens, and
// each token reads a blend of the slots. Nothing is chosen, so nothing is dropped and all has a gradient.
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/moe/slots.h"
#include "engine/ops/rows/reduce.h"
#include "moe/mixtures/mixture_parts.h"
#include "moe/routers/parts.h"

namespace glia {
namespace {

const OptionRow kSlots = {"slots", int64_t{1}, "of --mixture soft: slots of each expert, for each sequence", 1,
                          4096};

class SoftMixture : public WeighedMixture {
 public:
  SoftMixture(ParameterSet& set, const std::string& layer_name, const MoeConfig& c, const BertConfig& bert,
              int layer)
      : WeighedMixture(set, layer_name, c, bert, layer, c.n_experts * c.options.get<int64_t>(kSlots), true),
        of_each_(c.options.get<int64_t>(kSlots)) {
    if (of_each_ > 1 &&
        (any_loss_reads(LossReads::kMatrix, losses_) || any_loss_reads(LossReads::kExperts, losses_)))
      fail_input("--slots {}: expected 1 with a loss on the router's matrix, which has a row an expert", of_each_);
  }

  Result forward(const Var& x, const Pass& pass, bool read_rows_only) const override {
    const Sequences& q = pass.sequences;
    const Routing scored = router_->route(inputs(x, pass));
    const Var into = sequence_softmax(scored.scores, q), back = softmax(scored.scores);  // [T, S]
    const Tensor experts = slot_experts(q, experts_.count * of_each_, of_each_);
    const Var ones = full(x.context(), experts.shape(), 1, into.dtype());
    const Var read = run_experts(experts_, blend_rows(x, into, q), {ones, experts, 0}),
              y = spread_slots(read, back, q);
    Result r;
    r.routing = of_each_ == 1 ? report(back, scored.scores, scored.matrix, inputs(x, pass))
                              : report_groups(back, inputs(x, pass));
    r.y = read_rows_only ? pass.read_rows(y) : y;
    r.x = read_rows_only ? pass.read_rows(x) : x;
    return r;
  }

  // With several slots of an expert its scores are no token's logits. The scores are all that is read of the router: neither
  // its subsets nor what else it compares.
  Explanation explain(const Var& x, const Pass& pass) const override {
    if (of_each_ > 1) return {};
    Explanation routed = router_->explain(inputs(x, pass)), e;
    e.token_logits = std::move(routed.token_logits);
    e.mode = routed.mode, e.context = std::move(routed.context);
    return e;
  }

 private:
  // The share of an expert is that of its slots; scores whose softmax it is are its logarithm, 0 in the tail.
  Routing report_groups(const Var& back, const RoutingInputs& in) const {
    const int64_t n = experts_.count;
    const Var share = sum(reshape(back, {back.size(0), n, of_each_}), 2);
    const Tensor real = constant_rows(in.pass.sequences, n, 1, back.dtype());
    return report(share, mul(log(share), real), {}, in);
  }

  int64_t of_each_;
};

}  // namespace

std::span<const OptionRow> soft_options() {
  static const OptionRow rows[] = {kSlots};
  return rows;
}

std::unique_ptr<Mixture> make_soft(ParameterSet& set, const std::string& layer_name, const MoeConfig& config,
                                   const BertConfig& bert, int layer) {
  return std::make_unique<SoftMixture>(set, layer_name, config, bert, layer);
}

}  // namespace glia
