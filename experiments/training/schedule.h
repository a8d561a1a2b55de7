// Many runs: which are left to do, how long they take here, side by side on the devices, beside other programs that
// work on the same result folder.
#pragma once
#include "experiments/training/run.h"

namespace glia {

// The devices that --device names: cuda is all GPUs.
std::vector<Device> devices_of(const Options& options);
int64_t jobs_of(const Options& options, size_t devices);

// To be called first in main(): starts the program anew with OpenMP threads that go to sleep soon, unless the
// environment says how they should wait.
void settle_threads(char** argv);

// Runs on the same data, in one result folder or several: says what will be done, does it, writes each folder's summary.
// Returns the exit status as below.
int run_specs(const Options& options, const Study& study, const std::vector<RunSpec>& specs,
              const std::string& command, const Ranks& ranks = Ranks::alone());

// The whole of ./experiments/run_all and ./experiments/train, after the command line: says what will be done, does
// it, writes and prints the summary. A study with a grid: all its cells, then the chosen one (grid_run.cpp). Of several ranks
// every process calls it with the same options; they share each run, one after the other, and the first one writes.
// Returns the exit status: 0, or 1 when a run failed.
int run_experiment(const Options& options, const Study& study, const std::vector<std::string>& configs,
                   const std::string& command, const Ranks& ranks = Ranks::alone());

// Where a launcher started several of run_all: each takes runs of its own off the same list, as programs on one result folder
// do, on a GPU of its own, and all but the first are silent. The options of this one.
Options of_this_process(const Options& options);

}  // namespace glia
