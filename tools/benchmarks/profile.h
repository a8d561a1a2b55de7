// What step benchmarks share: the machine's own ceiling, and where a step's time goes.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "experiments/training/training.h"

namespace glia {

// The best of some large products in the type, on random data, in TFLOP/s: what this machine can reach at all.
double matmul_ceiling_tflops(Context& context, DType dtype);

// Milliseconds a step by op and by group of ops, with the events' own cost taken off.
struct StepProfile {
  std::vector<std::pair<std::string, double>> groups;  // all groups, in the order of printing
  std::vector<std::pair<double, std::string>> ops;     // the costly first; the text names the calls a step
  double sum_ms = 0;
  int64_t steps = 0;
};
// From the trainer's first step on, eager, every op between two events and enqueued while the device is kept busy, so that
// no op waits for the host. With `experts` the fused FFN kernels count as theirs.
StepProfile profile_steps(Context& context, Trainer& trainer, int64_t steps, bool experts);
// Lines by group and by op; `step_ms` is a whole step's time, from which the gaps follow.
std::string profile_text(const StepProfile& profile, double step_ms);

}  // namespace glia
