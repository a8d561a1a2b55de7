// What softmax and the astrocyte routers share: linear logits, optionally modulated by a context of the sequence, a
// softmax over the K largest, and the load losses.
#pragma once
#include "engine/ops/moe.h"
#include "moe/router.h"

namespace glia {

class TopKRouter : public Router {
 public:
  TopKRouter(ParameterSet& set, const std::string& name, const RouterOptions& options, ContextMode mode);
  Routing route(const Var& x, const Pass& pass) const final;

 protected:
  // What the context logits W_a c + b_a are computed from, one row a sequence.     x [T, H] → [B, H]
  virtual Var context_rows(const Var& x, const Pass& pass) const;

 private:
  RouterOptions options_;
  ContextMode mode_;
  Linear token_;                     // W [E, H], b [E]
  std::unique_ptr<Linear> context_;  // W_a [E, H], b_a [E]; null without context
};

}  // namespace glia
