// Utilisation matrices and accuracy of a finished run once more, from its checkpoint and the data.
#pragma once
#include "experiments/report/pictures/heatmap.h"
#include "experiments/training/evaluation.h"

namespace glia {

// What the run was started with, from its config.json; `data`, `vocabulary` and `cache` (folders and files, which
// config.json does not keep) come from the caller.
Options saved_options(const results::Run& run);

// Evaluates model.safetensors on the test set. Throws when the data are not those that the run was trained on.
Measured recompute(const results::Run& run, const Options& options, Device device);

}  // namespace glia
