// Where a trainer's batches come from, and what it must know of them before the first one: every buffer is made once.
#pragma once
#include <functional>

#include "data/batches/batching.h"

namespace glia {

struct BatchFeed {
  int64_t tokens = 0;           // the most of a batch, the tail included
  int64_t sequences = 0;        // of every batch
  int64_t longest = 0;          // no sequence is longer
  bool padded = false;          // the batches hold padding tokens
  int64_t vocabulary = 0;       // all ids are below it
  int64_t batches_a_epoch = 0;  // for a person: about so many
  Masking masking = {};
  bool borders = false;     // sequences have one
  int64_t order_parts = 1;  // above 1: of so many parts the distinct ids are in the order
  // Gives the batches from number `first` on, in order.
  std::function<FillBatch(int64_t first)> from;
};

// How many batches make a step. A ramp begins with one batch and adds more at equal distances until all of them are reached at step
// `ramp`; without (0) every step has all.
struct StepParts {
  int64_t all = 1, ramp = 0;
  int64_t of(int64_t step) const { return step >= ramp ? all : 1 + step * (all - 1) / ramp; }
  int64_t before(int64_t step) const;  // batches of the steps before
};

}  // namespace glia
