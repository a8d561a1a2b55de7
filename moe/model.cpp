#include "moe/model.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/loss_sum.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/ranks/sum_over_ranks.h"
#include "engine/ops/rows/reduce.h"
#include "engine/ops/rows/topk.h"
#include "moe/losses/losses.h"

namespace glia {

void check_causal(const ModelConfig& config) {
  if (!config.bert.causal) return;
  if (const std::string why = why_not_causal(config.moe); !why.empty())
    fail_input("router {}{}: expected one for a model that reads from left to right, got one that {}",
               config.moe.router, &mixture_row(config.moe) == &mixture_registry()[0] ? "" : " in its mixture", why);
}

std::unique_ptr<Bert> make_bert(ParameterSet& set, const ModelConfig& config) {
  check_causal(config);
  return std::make_unique<Bert>(
      set, config.bert, [&](ParameterSet& to, const std::string& name, int layer) -> std::unique_ptr<FeedForward> {
        if (config.moe.dense()) return make_dense(to, name, config.bert);
        return make_mixture(to, name, config.moe, config.bert, layer);
      });
}

Model::Model(Context& context, const ModelConfig& config, uint64_t seed) : context_(context), config_(config) {
  if (config_.bag.used()) {
    bag_ = std::make_unique<Bag>(parameters_, config_.bert, config_.bag);
    head_ = make_linear_head(parameters_, config_.bert);
  } else {
    bert_ = make_bert(parameters_, config_);
    head_ = config_.head(parameters_, config_.bert, bert_->embeddings);
  }
  choose_trained(parameters_, config_.trained);
  const bool doubles = config_.compute == DType::kFloat64;
  parameters_.materialise(context, seed, doubles ? DType::kFloat64 : DType::kFloat32,
                          config_.compute == DType::kBFloat16, config_.bfloat16_gradients);
}

const Bert& Model::bert() const {
  if (!bert_) fail_input("this model is a bag of n-grams: it has no encoder layers to look into");
  return *bert_;
}

const Sequences& Model::first_rows(int64_t count) const {
  auto found = first_rows_.find(count);
  if (found == first_rows_.end())
    found =
        first_rows_.emplace(count, make_sequences(context_, std::vector<int32_t>(static_cast<size_t>(count), 1)))
            .first;
  return found->second;
}

namespace {

// Of each row that is read, whether or not the head tells: −ln P of its target.     → [R]
Tensor losses_of_rows(const Model::Output& out, const Tensor& targets) {
  if (out.row_losses.defined()) return out.row_losses;
  CHECK(out.logits.defined(), "model: a router that draws wants a head that gives its rows' losses or logits");
  const Tensor logits = out.logits.value();
  const int64_t n = logits.size(0);
  const Tensor one = full(logits.context(), {n, 1}, 1.0, logits.dtype());
  const Tensor right = scatter_last(one, targets.reshape({n, 1}), logits.size(1)).value();
  return scale(sum(mul(log_softmax(logits), right), 1), -1).value();
}

// What the draws of a router paid (Routing::policy): minus the loss of the row that a token helps to predict, its
// sequence's or its own, above the mean of all that are read; a constant.     row_losses [R] → [T, 1], 0 elsewhere
Tensor advantages(const Tensor& row_losses, const Pass& pass) {
  const int64_t n = row_losses.numel();
  const Tensor losses = row_losses.reshape({n, 1}), all = full(losses.context(), {n, 1}, 1.0, losses.dtype()),
               ones = full(losses.context(), {pass.sequences.tokens, 1}, 1.0, losses.dtype()),
               real = pass.read_rows(ones).value();  // there is room for more rows than are read
  const Var mean =
      div(sum_over_ranks(matmul(real, losses, true)), sum_over_ranks(matmul(real, all, true)));  // [1, 1]
  const Var paid = sub(matmul(all, mean), losses);
  return (pass.read.defined() ? scatter_rows(paid, pass.read, pass.sequences.tokens)
                              : sequence_broadcast(paid, pass.sequences))
      .value();
}

// −A γ^above log π, a mean over the tokens.     → [1]
Var policy_loss(const Routing& routing, const Tensor& advantage, size_t above, const Pass& pass) {
  const Var all = sum(mul(routing.policy, cast(advantage, routing.policy.dtype())));
  const Var mean = div(all, real_rows(pass.sequences, all.dtype()));
  return over_ranks(scale(reshape(mean, {1}), -std::pow(routing.policy_discount, static_cast<double>(above))),
                    pass.sequences);
}

}  // namespace

Model::Output Model::forward(const Batch& batch, bool training) const {
  Pass pass{batch.sequences, first_rows(batch.sequences.count),   training,
            config_.compute, training ? config_.bert.dropout : 0, batch.order,
            batch.read};
  pass.rows_before = batch.rows_before;
  pass.borders = batch.borders;
  pass.context_rows = batch.context_rows;
  LaterLosses later;
  pass.later = &later;
  if (training) {
    pass.forward_at = batch.forward_at, pass.backward_at = batch.backward_at;
    pass.words_later = batch.words_later;
  }
  if (training && !config_.moe.dense() && router_row(config_.moe.router).traits.needs_labels)
    pass.labels = batch.labels;
  Bert::Result r = bag_ ? Bert::Result{bag_->forward(batch.ids, pass), {}}
                        : bert_->forward(batch.ids, pass, config_.last_layer_cls_only);
  const Tensor& targets = batch.targets.defined() ? batch.targets : batch.labels;
  Head::Result head = head_->forward(r.hidden, targets, pass);
  Output out;
  out.logits = std::move(head.logits);
  out.row_losses = std::move(head.row_losses);
  out.sums = std::move(head.sums);
  out.routings = std::move(r.routings);
  if (!head.loss.defined()) {
    for (Routing& routing : out.routings)
      for (AuxiliaryLosses& losses : routing.losses) losses.later = nullptr;  // it refers to this pass
    return out;
  }

  std::vector<std::string>& names = out.part_names;
  names = {"ce"};
  std::vector<double> weights = {1};
  std::vector<LossTerm> terms = {{std::move(head.loss), {0}, 1}};
  Tensor advantage;
  for (size_t l = 0; l < out.routings.size(); ++l)
    if (Routing& routing = out.routings[l]; routing.policy.defined()) {
      if (!advantage.defined()) advantage = advantages(losses_of_rows(out, targets), pass);
      routing.losses.push_back(
          {{"policy"}, {1}, policy_loss(routing, advantage, out.routings.size() - 1 - l, pass)});
    }
  for (Routing& routing : out.routings) {
    std::set<std::string_view> of_layer = {"ce", "loss", "lr", "grad_norm"};  // of the log
    for (AuxiliaryLosses& losses : routing.losses) {
      for (const std::string& name : losses.names)
        CHECK(of_layer.insert(name).second, "model: two losses are called '{}'", name);
      if (losses.later) losses.values = std::exchange(losses.later, nullptr)();
      LossTerm term{losses.values, {}, 1.0 / static_cast<double>(out.routings.size())};
      for (size_t i = 0; i < losses.names.size(); ++i) {
        const auto at = std::find(names.begin(), names.end(), losses.names[i]);
        term.part.push_back(static_cast<int>(at - names.begin()));
        if (at == names.end()) {
          names.push_back(losses.names[i]);
          weights.push_back(config_.loss_scale * losses.weights[i]);
        }
        CHECK(weights[term.part.back()] == config_.loss_scale * losses.weights[i],
              "model: layers weigh '{}' differently", losses.names[i]);
      }
      terms.push_back(std::move(term));
    }
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
  if (!bert_) return;
  for_each_mixture(*bert_, step,
                   [&](const Mixture& m, const StepStatistics& s) { m.before_update(parameters_, s); });
}

void Model::after_step(const StepRoutings& step) const {
  if (!bert_) return;
  for_each_mixture(*bert_, step, [](const Mixture& m, const StepStatistics& s) { m.after_step(s); });
}

void Model::randomise_ffn(uint64_t seed) {
  for (const EncoderLayer& layer : bert().layers) {
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
