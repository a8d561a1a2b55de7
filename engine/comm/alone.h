// A rank that computes on its own for a while: an evaluation's batches are divided over the ranks, and one that has fewer of
// them must not keep the others waiting for a sum.
#pragma once

#include <memory>

#include "engine/device/context.h"

namespace glia {

// Gives the context ranks of which it can take leave.
void set_ranks(Context& context, std::unique_ptr<Communicator> ranks);

// While it lives the context's communicator is that of one rank. A context that never had ranks is as it was.
class Alone {
 public:
  explicit Alone(Context& context);
  ~Alone();
  Alone(const Alone&) = delete;
  Alone& operator=(const Alone&) = delete;

 private:
  bool* alone_ = nullptr;
};

}  // namespace glia
