// Which parameters are trained, and how fast, by patterns on their names.
#pragma once
#include <string>
#include <vector>

#include "nn/parameters.h"

namespace glia {

// Patterns with * (any text, dots too) and ? (one character), separated by commas.
struct TrainedPart {
  std::string freeze;  // those are frozen …
  std::string
      train;  // … but for these; where `freeze` is empty, everything but these is frozen. Both empty: all are trained
  // "PATTERN=VALUE,…": the learning rate at the schedule's top, and the weight decay of those that decay, of what a pattern
  // names; of several patterns the last one counts.
  std::string rates = {}, decays = {};
  bool all() const { return freeze.empty() && train.empty() && rates.empty() && decays.empty(); }
};

bool matches(const std::string& pattern, const std::string& name);

// Marks the set's parameters, before materialise(). Errors: a pattern that matches no parameter; nothing left to train; a
// value that is no number of 0 or more.
void choose_trained(ParameterSet& set, const TrainedPart& part);

// "trained: 12 of 57 tensors, 1,234,567 of 28,763,652 numbers: encoder.layer.3.…, pooler.weight, …"
std::string describe_trained(const ParameterSet& set);

}  // namespace glia
