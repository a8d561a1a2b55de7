#include "experiments/training/step.h"

#include <algorithm>

#include "engine/ops/elementwise/elementwise.h"

namespace glia {

ElementRange low_range_of_layer(const ParameterSet& parameters, int layer) {
  const std::string prefix = fmt::format("encoder.layer.{}.", layer);
  ElementRange range{parameters.low_size(), 0};
  int64_t own = 0;
  for (const Parameter& p : parameters.all()) {
    if (!p.name.starts_with(prefix) || p.offset >= parameters.low_size() || p.frozen) continue;
    if (!p.var.grad().defined()) return {};
    const int64_t size = round_up(p.shape.numel(), ParameterSet::kAlign);
    range.begin = std::min(range.begin, p.offset), range.end = std::max(range.end, p.offset + size);
    own += size;
  }
  return own == range.end - range.begin ? range : ElementRange{};
}

void TrainingStep::reduce_layer(int layer, AsideReducer& aside) {
  ParameterSet& parameters = model_.parameters();
  const ElementRange range = low_range_of_layer(parameters, layer);
  if (range.begin >= range.end) return;
  const Tensor part = parameters.low_gradients().rows(range.begin, range.end);
  aside.all_reduce_aside(part.raw(), part.numel(), part.dtype());
  reduced_.push_back(range);
}

Batch TrainingStep::with_reduction(Batch batch, AsideReducer& aside) {
  batch.layer_done = [this, &aside](int layer) { reduce_layer(layer, aside); };
  return batch;
}

// One rank alone launches nothing.
void TrainingStep::reduce_rest() {
  ParameterSet& parameters = model_.parameters();
  Communicator& ranks = model_.context().communicator();
  if (ranks.size() == 1) return;
  AsideReducer* aside = aside_of(ranks);
  if (aside) aside->join_aside();
  const auto reduce = [&](const Tensor& flat, int64_t begin, int64_t end) {
    if (begin >= end) return;
    const Tensor part = flat.rows(begin, end);
    ranks.all_reduce(part.raw(), part.numel(), part.dtype(), Reduction::kSum);
  };
  std::ranges::sort(reduced_, {}, &ElementRange::begin);
  int64_t at = 0;
  for (const ElementRange& range : reduced_) {
    reduce(parameters.low_gradients(), at, range.begin);
    at = range.end;
  }
  if (parameters.low_gradients().defined()) reduce(parameters.low_gradients(), at, parameters.low_size());
  // The table's rows may have the gradient of all ranks already (input_embedding).
  const Parameter* table = parameters.table();
  reduce(parameters.gradients(),
         optimiser_.rows_of_all_ranks() ? round_up(table->shape.numel(), ParameterSet::kAlign) : 0,
         parameters.gradients().numel());
}

void TrainingStep::run(const Batch& batch, StepPart part) {
  CHECK(part.count >= 1 && part.index >= 0 && part.index < part.count, "training step: part {} of {}", part.index,
        part.count);
  ParameterSet& parameters = model_.parameters();
  if (part.first()) {
    parameters.clear_gradients();
    routings_ = {};
  }
  AsideReducer* aside = part.last() ? aside_of(model_.context().communicator()) : nullptr;
  reduced_.clear();  // here, since a capture may break in the middle of a step
  const Model::Output out =
      aside ? model_.forward(with_reduction(batch, *aside), true) : model_.forward(batch, true);
  if (!batch.share.defined() && part.count == 1) {
    backward(out.loss);
  } else {
    CHECK(batch.share.defined() && batch.share.numel() > out.parts.numel(),
          "training step: wants the share of a part, of the loss and each of its {} parts", out.parts.numel());
    backward(out.loss, batch.share.rows(0, 1).reshape(Shape{}));
  }
  routings_.add(out.routings);
  if (part.last()) {
    parameters.complete_gradients();
    reduce_rest();
    routings_.reduce(model_.context().communicator());
    model_.before_update(routings_);
    optimiser_.step();
    model_.after_step(routings_);
    routings_ = {};
  }
  add_losses(out, batch, part);
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
  if (part.last())
    model_.context().communicator().all_reduce(losses_.raw(), losses_.numel(), losses_.dtype(), Reduction::kSum);
}

}  // namespace glia
