#include "experiments/training/step.h"

#include "engine/ops/elementwise/elementwise.h"

namespace glia {

void reduce_gradients(ParameterSet& parameters, Communicator& communicator) {
  for (const Tensor& g : {parameters.low_gradients(), parameters.gradients()})
    if (g.defined()) communicator.all_reduce(g.raw(), g.numel(), g.dtype(), Reduction::kSum);
}

void TrainingStep::run(const Batch& batch, StepPart part) {
  CHECK(part.count >= 1 && part.index >= 0 && part.index < part.count, "training step: part {} of {}", part.index,
        part.count);
  ParameterSet& parameters = model_.parameters();
  if (part.first()) {
    parameters.clear_gradients();
    routings_ = {};
  }
  const Model::Output out = model_.forward(batch, true);
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
    reduce_gradients(parameters, model_.context().communicator());
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
