#include "moe/layer_walk.h"

#include "engine/core/check.h"
#include "engine/ops/elementwise/elementwise.h"
#include "moe/mixtures/mixture_parts.h"

namespace glia {
namespace {

// Σ_k gates_tk Expert(h_t) of a layer's routed experts alone.     → [T, H]
Var routed_sum(const MoeLayer& layer, const Var& h, const Routing& routing) {
  const ExpertPairs pairs = layer.pairs(h, routing);
  return combine_rows(pairs.outputs, routing.gates, pairs.dispatch);
}

}  // namespace

Head::Result walk(const Model& model, const Batch& batch,
                  const std::function<void(const WalkedLayer&, FeedForward::Result&)>& f) {
  Context& context = model.context();
  const NoGrad no_grad(context);
  const Sequences first =
      make_sequences(context, std::vector<int32_t>(static_cast<size_t>(batch.sequences.count), 1));
  Pass pass{batch.sequences, first, false, model.config().compute, 0};
  pass.read = batch.read, pass.borders = batch.borders, pass.ids = batch.ids;
  Var x = model.bert().embeddings(batch.ids, pass);
  for (size_t l = 0; l < model.bert().layers.size(); ++l) {
    const EncoderLayer& layer = model.bert().layers[l];
    Var h = layer.attention.finish(layer.attention.mix(x, pass), x, pass);
    if (layer.second_norm) h = layer.second_norm->residual(h, x, 0, {});
    const Var read = layer.before_feed_forward(h);
    FeedForward::Result r = layer.feed_forward->forward(read, pass, false);
    f({l, layer, read, pass}, r);
    if (const Var& scores = scores_for_next(r.routing); scores.defined()) pass.previous_scores = scores;
    x = layer.behind_feed_forward(r, h, pass, false);
  }
  Var read = pass.read_rows(x);
  if (model.bert().norm) read = (*model.bert().norm)(read);
  return model.head().forward(read, batch.targets, pass);
}

Choices::Choices(const Routing& r)
    : experts(r.experts.to_vector<int32_t>()),
      gates(r.gates.value().to_vector<double>()),
      slots(r.experts.size(1)) {}

const MoeLayer* find_routed(const FeedForward& layer) {
  return dynamic_cast<const MoeLayer*>(&without_shared(layer));
}

namespace {

const MoeLayer& routed(const FeedForward& layer, size_t number) {
  const MoeLayer* moe = find_routed(layer);
  if (!moe) fail_input("layer {}: has no experts that tokens are sent to one by one", number + 1);
  return *moe;
}

}  // namespace

void require_routed(const Model& model) {
  for (size_t l = 0; l < model.bert().layers.size(); ++l) routed(*model.bert().layers[l].feed_forward, l);
}

const MoeLayer& routed_layer(const WalkedLayer& walked) {
  return routed(*walked.layer.feed_forward, walked.number);
}

void replace_choices(const WalkedLayer& walked, FeedForward::Result& result, const Choices& choices) {
  const MoeLayer& moe = routed_layer(walked);
  const Routing& old = result.routing;
  Context& context = walked.h.context();
  CHECK(choices.experts.size() == size_t(old.experts.numel()) && choices.gates.size() == choices.experts.size(),
        "choices: {} experts and {} gates for {}", choices.experts.size(), choices.gates.size(),
        old.experts.shape());
  Routing routing;
  routing.n_experts = old.n_experts;
  routing.experts = from_vector(context, choices.experts, old.experts.shape());
  routing.gates = Var(from_vector(context, choices.gates, old.gates.shape(), old.gates.value().dtype()));
  result.y = add(result.y, sub(routed_sum(moe, walked.h, routing), routed_sum(moe, walked.h, old)));
}

std::vector<Tensor> outputs_of_all(const MoeLayer& layer, const Var& h) {
  const int64_t rows = h.size(0);
  std::vector<Tensor> outputs;
  for (int64_t e = 0; e < layer.experts().count; ++e) {
    Routing routing;
    routing.n_experts = layer.experts().count;
    routing.experts = from_vector(h.context(), std::vector<int32_t>(size_t(rows), int32_t(e)), {rows, 1});
    const DType dtype = h.dtype() == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
    routing.gates = Var(from_vector(h.context(), std::vector<float>(size_t(rows), 1.0f), {rows, 1}, dtype));
    outputs.push_back(routed_sum(layer, h, routing).value());
  }
  return outputs;
}

}  // namespace glia
