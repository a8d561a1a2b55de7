#include "moe/model.h"

#include <algorithm>

#include "engine/ops/loss/loss_sum.h"

namespace glia {

Model::Model(Context& context, const ModelConfig& config, uint64_t seed) : context_(context), config_(config) {
  const BertConfig& b = config_.bert;
  bert_ = std::make_unique<Bert>(
      parameters_, b, [&](ParameterSet& set, const std::string& name, int layer) -> std::unique_ptr<FeedForward> {
        if (config_.moe.dense()) return make_dense(set, name, b);
        return make_mixture(set, name, config_.moe, b, layer);
      });
  head_ = config_.head(parameters_, b, bert_->embeddings);
  choose_trained(parameters_, config_.trained);
  const bool doubles = config_.compute == DType::kFloat64;
  parameters_.materialise(context, seed, doubles ? DType::kFloat64 : DType::kFloat32,
                          config_.compute == DType::kBFloat16, config_.bfloat16_gradients);
}

const Sequences& Model::first_rows(int64_t count) const {
  auto found = first_rows_.find(count);
  if (found == first_rows_.end())
    found =
        first_rows_.emplace(count, make_sequences(context_, std::vector<int32_t>(static_cast<size_t>(count), 1)))
            .first;
  return found->second;
}

Model::Output Model::forward(const Batch& batch, bool training) const {
  Pass pass{batch.sequences, first_rows(batch.sequences.count),   training,
            config_.compute, training ? config_.bert.dropout : 0, batch.order,
            batch.read};
  pass.rows_before = batch.rows_before;
  pass.borders = batch.borders;
  if (training) pass.layer_done = batch.layer_done;
  if (training && !config_.moe.dense() && router_row(config_.moe.router).traits.needs_labels)
    pass.labels = batch.labels;
  Bert::Result r = bert_->forward(batch.ids, pass, config_.last_layer_cls_only);
  Head::Result head = head_->forward(r.hidden, batch.targets.defined() ? batch.targets : batch.labels, pass);
  Output out;
  out.logits = std::move(head.logits);
  out.row_losses = std::move(head.row_losses);
  out.sums = std::move(head.sums);
  out.routings = std::move(r.routings);
  if (!head.loss.defined()) return out;

  std::vector<std::string>& names = out.part_names;
  names = {"ce"};
  std::vector<double> weights = {1};
  std::vector<LossTerm> terms = {{std::move(head.loss), {0}, 1}};
  for (const Routing& routing : out.routings)
    for (const AuxiliaryLosses& losses : routing.losses) {
      LossTerm term{losses.values, {}, 1.0 / static_cast<double>(out.routings.size())};
      for (size_t i = 0; i < losses.names.size(); ++i) {
        const auto at = std::find(names.begin(), names.end(), losses.names[i]);
        term.part.push_back(static_cast<int>(at - names.begin()));
        if (at == names.end()) {
          names.push_back(losses.names[i]);
          weights.push_back(losses.weights[i]);
        }
        CHECK(weights[term.part.back()] == losses.weights[i], "model: layers weigh '{}' differently",
              losses.names[i]);
      }
      terms.push_back(std::move(term));
    }
  LossSum sum = sum_losses(terms, weights);
  out.loss = std::move(sum.total);
  out.parts = std::move(sum.parts);
  return out;
}

std::vector<Statistic> Model::router_state() const {
  std::vector<Statistic> all;
  for (const State& s : parameters_.states()) all.push_back({s.name, s.value});
  return all;
}

namespace {

// f(mixture, its layer's statistics)
template <class F> void for_each_mixture(const Bert& bert, const StepRoutings& step, F f) {
  CHECK(step.layers().size() == bert.layers.size(), "step: wants the routings of {} layers, got {}",
        bert.layers.size(), step.layers().size());
  for (size_t l = 0; l < bert.layers.size(); ++l)
    if (const auto* mixture = dynamic_cast<const Mixture*>(bert.layers[l].feed_forward.get()))
      f(*mixture, step.layers()[l]);
}

}  // namespace

void Model::before_update(const StepRoutings& step) {
  for_each_mixture(*bert_, step,
                   [&](const Mixture& m, const StepStatistics& s) { m.before_update(parameters_, s); });
}

void Model::after_step(const StepRoutings& step) const {
  for_each_mixture(*bert_, step, [](const Mixture& m, const StepStatistics& s) { m.after_step(s); });
}

void Model::randomise_ffn(uint64_t seed) {
  for (const EncoderLayer& layer : bert_->layers) {
    const auto* ffn = dynamic_cast<const DenseFeedForward*>(layer.feed_forward.get());
    CHECK(ffn, "randomise_ffn: wants a dense model");
    for (const Linear* l : {&ffn->up, &ffn->down}) {
      parameters_.redraw(*l->weight, l->weight->init, seed);
      parameters_.redraw(*l->bias, l->bias->init, seed);
    }
  }
  parameters_.refresh_copy();
}

}  // namespace glia
