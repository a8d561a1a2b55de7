#include "experiments/language/continuation.h"

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/products/rows_apart.h"

namespace glia {
namespace {

const CausalLmHead& head_of(const Model& model) {
  const auto* head = dynamic_cast<const CausalLmHead*>(&model.head());
  if (!head || !model.config().bert.causal)
    fail_input("the model: expected a language model (--task causal_lm), got one of another task");
  return *head;
}

}  // namespace

Continuation::Continuation(const Model& model, int64_t capacity, int64_t border, bool cached)
    : model_(model),
      head_(head_of(model)),
      capacity_(capacity),
      border_(border),
      first_(make_sequences(model.context(), {1})) {
  if (capacity < 1 || capacity > model.config().bert.positions)
    fail_input("a text of {} tokens: expected 1 to the model's {} positions", capacity,
               model.config().bert.positions);
  if (cached) cache_.emplace(model.context(), model.config().bert, model.config().compute, capacity, border);
}

Tensor Continuation::feed(std::span<const int32_t> ids) {
  Context& context = model_.context();
  const NoGrad no_grad(context);
  const RowsApart rows_apart;
  const int64_t before = tokens(), count = static_cast<int64_t>(ids.size());
  CHECK(count >= 1 && before + count <= capacity_, "continuation: wants room for {} tokens, has it for {}",
        before + count, capacity_);
  CHECK(before > 0 || count >= border_, "continuation: wants the {} tokens of the prompt at once, got {}", border_,
        count);
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  const std::vector<int32_t> now = cache_ ? std::vector<int32_t>(ids.begin(), ids.end()) : ids_;
  const auto rows = static_cast<int64_t>(now.size());
  const Sequences sequences = make_sequences(context, {static_cast<int32_t>(rows)});
  Pass pass{sequences, first_, false, model_.config().compute, 0};
  pass.read = from_vector(context, std::vector<int32_t>{static_cast<int32_t>(rows - 1)}, {1});
  pass.borders = from_vector(context, std::vector<int32_t>{static_cast<int32_t>(border_)}, {1});
  pass.cache = cache_ ? &*cache_ : nullptr;
  Bert::Result r = model_.bert().forward(from_vector(context, now, {rows}), pass, true);
  if (cache_) cache_->advance(rows);
  routings_ = std::move(r.routings);
  return reshape(head_.logits(r.hidden), {model_.config().bert.vocabulary}).value();
}

}  // namespace glia
