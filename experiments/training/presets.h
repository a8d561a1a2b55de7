// Named sets of flag values: presets (how large) and protocols (how strict, docs/science.md 6).
#pragma once
#include <span>
#include <string>
#include <utility>

#include "experiments/training/options.h"

namespace glia {

struct FlagSet {
  const char* name;
  const char* help;
  std::vector<std::pair<const char*, const char*>> values;  // flag, value
};

std::span<const FlagSet> presets();
std::span<const FlagSet> protocols();

// What --device auto stands for: a GPU if there is one that this build has code for.
std::string automatic_device();

// Fills in what was not given on the command line: device, preset, protocol, precision, gradients. Afterwards
// nothing is "auto" but what depends on the number of runs. Checks the result.
Options resolve(const CommandLine& line);

}  // namespace glia
