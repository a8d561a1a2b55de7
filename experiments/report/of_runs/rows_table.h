// How far a test set of this size can be trusted: intervals over its rows, where runs have kept their predictions
// (experiments/records/predictions.h). Seeds tell of training, rows of the data; neither stands for the other.
#pragma once
#include "experiments/report/tables.h"

namespace glia::results {

// Each configuration's accuracy, and its difference to the study's first accuracy baseline, with 95 % percentile intervals
// over bootstrap samples of the test rows; a row counts by the share of the seeds that get it right, so that the difference
// is paired by row. No rows where no run has predictions.
Table test_rows_table(const Summary& summary, const Listing& listing);

}  // namespace glia::results
