// The data that the options ask for, through the registry of data sets.
#pragma once
#include "data/datasets/dataset.h"
#include "experiments/records/results.h"
#include "experiments/training/options.h"

namespace glia {

// Whether `auto` would take real data.
bool has_real_data(const Options& options);

// load_dataset, and what training wants besides: rows in each part that it reads.
Dataset load_data(const Options& options);

results::DataInfo data_info(const Dataset& data);
// Of all ids and labels: a run is resumed on the same data only.
uint64_t data_fingerprint(const Dataset& data);

}  // namespace glia
