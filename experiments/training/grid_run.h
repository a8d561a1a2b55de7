// A study with a grid: its cells side by side, then more seeds of every configuration at the recipe that they choose.
#pragma once
#include <string>
#include <vector>

#include "experiments/studies/study.h"
#include "experiments/training/options.h"

namespace glia {

// Each cell has a result folder of its own, <out>/<cell>; finished runs in it are skipped, so a grid can be run in pieces.
// --cells picks some, or "chosen"; --seeds, where typed, holds in every cell. Ends with the tables of the whole grid, in
// which what was not run is said to be so. Returns the exit status: 0, or 1 when a run failed.
int run_grid(const Options& options, const Study& study, const std::vector<std::string>& configs,
             const std::string& command);

}  // namespace glia
