#include "experiments/training/step.h"

#include <algorithm>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/ranks/sum_over_ranks.h"

namespace glia {

ElementRange low_range_of_piece(int piece, const ParameterSet& parameters, bool complete) {
  const std::string own = fmt::format("encoder.layer.{}.", piece - 1), own_attention = own + "attention.",
                    next = fmt::format("encoder.layer.{}.", piece), next_attention = next + "attention.";
  const auto has_layer = [&](const std::string& prefix) {
    return std::ranges::any_of(parameters.all(), [&](const Parameter& p) { return p.name.starts_with(prefix); });
  };
  const bool last = has_layer(own) && !has_layer(next);
  const auto belongs = [&](const std::string& name) {
    if (name.starts_with(own)) return !name.starts_with(own_attention);
    return name.starts_with(next_attention) ||
           (last && !name.starts_with("encoder.layer.") && !name.starts_with("embeddings."));
  };
  ElementRange range{parameters.low_size(), 0};
  int64_t size_of_all = 0;
  for (const Parameter& p : parameters.all()) {
    if (!belongs(p.name)) continue;
    if (p.offset >= parameters.low_size() || p.frozen || p.expert_ranks > 1) continue;
    if (complete && !p.var.grad().defined()) return {};
    const int64_t size = round_up(p.shape.numel(), ParameterSet::kAlign);
    range.begin = std::min(range.begin, p.offset), range.end = std::max(range.end, p.offset + size);
    size_of_all += size;
  }
  return size_of_all == range.end - range.begin ? range : ElementRange{};
}

void TrainingStep::reduce_piece(int piece, AsideReducer& aside) {
  ParameterSet& parameters = model_.parameters();
  const ElementRange range = low_range_of_piece(piece, parameters);
  if (range.begin >= range.end) return;
  const Tensor part = parameters.low_gradients().rows(range.begin, range.end);
  if (optimiser_.scatters(range))
    aside.reduce_scatter_aside(part.raw(), part.numel() / model_.context().communicator().size(), part.dtype());
  else aside.all_reduce_aside(part.raw(), part.numel(), part.dtype());
  done_.push_back(range);
}

Batch TrainingStep::with_reduction(Batch batch) {
  batch.words_later = &words_;
  words_.begin({});
  if (AsideReducer* aside = aside_of(model_.context().communicator())) {
    const ModelPlace begins = aside->takes_multiprocessors() ? ModelPlace::kMixed : ModelPlace::kFeedForward;
    batch.backward_at = [this, aside, begins](int layer, ModelPlace place) {
      if (place == begins || place == ModelPlace::kFirst) reduce_piece(layer + 1, *aside);
    };
    words_.begin([aside](const Tensor& all) {
      aside->all_gather_aside(all.raw(), all.numel() / all.context().communicator().size(), all.dtype());
    });
  }
  return batch;
}

// What the update of the step before has left for now: forward waits for a piece where it comes to it, and first for what is in none.
Batch TrainingStep::with_others_weights(Batch batch) {
  optimiser_.send_copies();
  batch.forward_at = [this](int layer, ModelPlace place) {
    const ParameterSet& parameters = model_.parameters();
    if (place == ModelPlace::kFeedForward)
      return optimiser_.wait_for_copies(low_range_of_piece(layer + 1, parameters, false));
    if (place != ModelPlace::kFirst) return;
    int64_t at = 0;
    for (int piece = 1; piece <= model_.config().bert.layers; ++piece) {
      const ElementRange range = low_range_of_piece(piece, parameters, false);
      if (range.begin >= range.end) continue;
      optimiser_.wait_for_copies({at, range.begin});
      at = range.end;
    }
    optimiser_.wait_for_copies({at, parameters.low_size()});
  };
  return batch;
}

// Of what the ranks of one group divide, each has the whole gradient of its own experts, if nothing else reads their weights: it is
// gathered, not added, or stays where it is, if the optimiser updates it there.
void TrainingStep::gather_divided() {
  const ParameterSet& parameters = model_.parameters();
  for (const Parameter& p : parameters.all()) {
    if (p.frozen || !p.owned || p.expert_ranks != model_.context().communicator().size()) continue;
    if (!optimiser_.own(p)) gather_own_parts(parameters.gradient(p));
    done_.push_back({p.offset, p.offset + round_up(p.shape.numel(), ParameterSet::kAlign)});
  }
}

void TrainingStep::leave_out_positions(int64_t longest) {
  const Parameter* p = model_.parameters().find("embeddings.position.weight");
  if (!p || p->frozen || longest >= p->shape[0]) return;
  done_.push_back({p->offset + longest * p->shape[1], p->offset + p->shape.numel()});
}

// One rank alone launches nothing.
void TrainingStep::reduce_rest(int64_t longest) {
  ParameterSet& parameters = model_.parameters();
  Communicator& ranks = model_.context().communicator();
  if (ranks.size() == 1) return;
  if (AsideReducer* aside = aside_of(ranks)) aside->join_aside();
  gather_divided();
  // The table's rows may have the gradient of all ranks already (input_embedding).
  if (const Parameter* table = parameters.table(); table && optimiser_.rows_of_all_ranks())
    done_.push_back({table->offset, table->offset + round_up(table->shape.numel(), ParameterSet::kAlign)});
  leave_out_positions(longest);
  // What backward did not come to.
  for (const ElementRange& range : optimiser_.scattered()) {
    if (std::ranges::any_of(done_, [&](const ElementRange& r) { return r.begin == range.begin; })) continue;
    const Tensor part = parameters.low_gradients().rows(range.begin, range.end);
    const int64_t each = part.numel() / ranks.size();
    ranks.reduce_scatter(part.raw(), part.rows(ranks.rank() * each, (ranks.rank() + 1) * each).raw(), each,
                         part.dtype(), Reduction::kSum);
    done_.push_back(range);
  }
  std::ranges::sort(done_, {}, &ElementRange::begin);
  // What of elements [first, end), which `flat` holds, nobody has reduced.
  const auto reduce_between = [&](const Tensor& flat, int64_t first, int64_t end) {
    int64_t at = first;
    const auto reduce_to = [&](int64_t stop) {
      if (at >= stop) return;
      const Tensor part = flat.rows(at - first, stop - first);
      ranks.all_reduce(part.raw(), part.numel(), part.dtype(), Reduction::kSum);
    };
    for (const ElementRange& range : done_) {
      if (range.end <= first || range.begin >= end) continue;
      reduce_to(range.begin);
      at = range.end;
    }
    reduce_to(end);
  };
  together(ranks, [&] {
    words_.gather();
    reduce_between(parameters.low_gradients(), 0, parameters.low_size());
    reduce_between(parameters.gradients(), parameters.low_size(), parameters.trained_size());
    ranks.all_reduce(losses_.raw(), losses_.numel(), losses_.dtype(), Reduction::kSum);
    routings_.reduce(ranks);
  });
  words_.use();
}

void TrainingStep::run(const Batch& batch, StepPart part) {
  CHECK(part.count >= 1 && part.index >= 0 && part.index < part.count, "training step: part {} of {}", part.index,
        part.count);
  CHECK(batch.share.defined() || model_.context().communicator().size() == 1,
        "training step: wants this rank's share of the batch");
  ParameterSet& parameters = model_.parameters();
  if (part.first()) {
    parameters.clear_gradients();
    routings_ = {};
  }
  done_.clear();  // here, since a capture may break in the middle of a step
  const bool reduces = part.last() && model_.context().communicator().size() > 1;
  Batch own = reduces ? with_reduction(batch) : batch;
  if (part.first() && optimiser_.copies_later()) own = with_others_weights(std::move(own));
  const Model::Output out = model_.forward(own, true);
  if (!batch.share.defined() && part.count == 1) {
    backward(out.loss);
  } else {
    CHECK(batch.share.defined() && batch.share.numel() > out.parts.numel(),
          "training step: wants the share of a part, of the loss and each of its {} parts", out.parts.numel());
    backward(out.loss, batch.share.rows(0, 1).reshape(Shape{}));
  }
  routings_.add(out.routings);
  add_losses(out, batch, part);
  if (part.last()) {
    parameters.complete_gradients();
    reduce_rest(batch.sequences.max_length);
    model_.before_update(routings_);
    optimiser_.step();
    model_.after_step(routings_);
    routings_ = {};
  }
}

void TrainingStep::add_losses(const Model::Output& out, const Batch& batch, StepPart part) {
  if (!losses_.defined()) {  // the first step, which is never captured
    losses_ = empty(model_.context(), {1 + out.parts.numel()}, out.parts.dtype());
    part_names_ = out.part_names;
  }
  if (!batch.share.defined()) {
    losses_.rows(0, 1).copy_from(out.loss.value().reshape({1}));
    losses_.rows(1, losses_.numel()).copy_from(out.parts);
    return;
  }
  const NoGrad no_grad(model_.context());
  Tensor own = empty_like(losses_);
  own.rows(0, 1).copy_from(out.loss.value().reshape({1}));
  own.rows(1, own.numel()).copy_from(out.parts);
  const Tensor weighted = mul(own, batch.share.rows(0, own.numel())).value();
  if (part.first()) losses_.copy_from(weighted);
  else accumulate(losses_, weighted);
}

}  // namespace glia
