// How a saved run's model routes a split: a trace of it (trace_file.h), whatever its router.
#pragma once
#include "experiments/analysis/trace_file.h"
#include "experiments/training/evaluation.h"

namespace glia {

// Of all tokens that the evaluator's batches hold, in their order; `first_rows`: of each sequence's first token alone, which
// in a classifier's last layer is all that can change the prediction. Error: a model without experts.
results::TraceContent trace_of(const Model& model, const Evaluator& evaluator, const std::string& title,
                               const std::vector<std::string>& topics, bool first_rows);

// For an evaluator whose batches are traced: a trace has no padding tokens.
Options without_padding(Options options);

std::string title_of(const results::Run& run);  // "softmax-moe, seed0"

// Of the run's test rows (a part of them: options.utilisation_rows), as recompute() reads them.
results::TraceContent trace_run(const results::Run& run, const Options& options, Device device, bool first_rows);

}  // namespace glia
