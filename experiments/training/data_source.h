// The data that the options ask for, through the registry of data sets.
#pragma once
#include "data/datasets/dataset.h"
#include "experiments/records/results.h"
#include "experiments/training/options.h"

namespace glia {

DatasetOptions dataset_options(const Options& options);
// Whether `auto` would take real data.
bool has_real_data(const Options& options);

// Loads, tokenizes (or takes from the cache) and cuts to --max-rows and --max-test-rows.
Dataset load_data(const Options& options);

results::DataInfo data_info(const Dataset& data);
// Of all ids and labels: a run is resumed on the same data only.
uint64_t data_fingerprint(const Dataset& data);

}  // namespace glia
