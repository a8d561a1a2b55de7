// How long runs take here, as finished ones took or as a few steps of each say before they begin.
#pragma once
#include <map>

#include "experiments/training/run.h"

namespace glia {

std::string step_text(double ms);  // "7.08 ms", "1.2 s"

class StepTimes {
 public:
  struct Step {
    double ms = 1;      // of a training step; 1 where nothing is known of any
    bool near = false;  // of the known one whose FLOPs a token are nearest, not of its own configuration
  };

  // The data must outlive it. `device_text`: as config.json has it.
  StepTimes(const Dataset& data, Device device, std::string device_text);

  // Takes the time of a finished run on such a device.
  void add_finished(const RunSpec& spec);
  // Trains a few steps and forgets them. `in_short`: only where nothing is known of a dense model, of one with experts if it has
  // some. Returns whether it has measured.
  bool measure(const RunSpec& spec, bool in_short);

  Step of(const RunSpec& spec) const;
  // Steps and evaluations.
  double run_seconds(const RunSpec& spec) const;

 private:
  struct Known {
    double ms, flops;
    bool dense;
  };
  double flops_of(const RunSpec& spec) const;

  const Dataset& data_;
  Device device_;
  std::string device_text_;
  std::map<std::string, Known> known_;  // by what decides a step's time
};

// Tokens of a test row on the mean, which costs are told at.
double mean_length(const Dataset& data);

// A line a configuration: what a token costs where loads are even, and, with `times`, a step of it and its runs that are left to
// do. Those are measured one after the other as long as `seconds` last; behind that the nearest stand for them, and a line says
// so. The last line is the sum, `parallel` runs at a time.
void print_costs(const std::vector<RunSpec>& specs, const std::vector<RunSpec>& open, const Dataset& data,
                 StepTimes* times, double seconds, double parallel, std::FILE* out);

}  // namespace glia
