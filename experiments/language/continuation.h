// A causal model over one text that grows: what may come next, token after token.
#pragma once
#include <optional>
#include <span>

#include "moe/model.h"
#include "nn/row_cache.h"

namespace glia {

class Continuation {
 public:
  // Of at most `capacity` tokens, of which the first `border` are the prompt (0: none); the model must outlive it. Without the
  // cache every call computes all tokens again: the same bits in float32 and float64 on a CPU, and the cache's test.
  // Errors: a model that is not causal, or has another head than a language model's.
  Continuation(const Model& model, int64_t capacity, int64_t border, bool cached = true);

  // Adds tokens; the first call's reach to the border at least. → [V], float32 (float64), on the model's device: the logits of
  // what comes behind the last one
  Tensor feed(std::span<const int32_t> ids);

  int64_t tokens() const { return static_cast<int64_t>(ids_.size()); }
  // Of the last call, an entry a layer; its rows are the tokens of that call, or all tokens where there is no cache.
  const std::vector<Routing>& routings() const { return routings_; }

 private:
  const Model& model_;
  const CausalLmHead& head_;
  int64_t capacity_, border_;
  std::optional<RowCache> cache_;
  std::vector<int32_t> ids_;
  Sequences first_;  // one row
  std::vector<Routing> routings_;
};

}  // namespace glia
