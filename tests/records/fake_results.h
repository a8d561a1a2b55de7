// A realistic result folder without training: the configurations of the study ahr × seeds, for the tests and for looking at
// pictures.
#pragma once
#include <string>

#include "experiments/records/results.h"
#include "tests/temporary_folder.h"

namespace glia::test {

results::RunConfig fake_config(const std::string& config, int seed_index, int layers = 4, int experts = 8);
results::Evaluation fake_evaluation(const results::RunConfig& config,
                                    std::vector<results::LayerUtilisation>& utilisation);

// Writes one finished run (config, metrics, utilisation, evaluation, timing) through experiments/records/results.h.
void write_fake_run(const std::string& out, const results::RunConfig& config, int steps = 300);
void write_fake_results(const std::string& out, int seeds = 5, int steps = 300);

}  // namespace glia::test
