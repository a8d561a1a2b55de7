// What a reader of the tables must know first: synthetic data, failed, missing and stuck runs, too few seeds, baselines
// that are not there, topics without rows or letters, runs of different make.
#pragma once
#include "experiments/report/summary.h"

namespace glia::results {

void add_warnings(Summary& summary, const Listing& listing);  // a line each, with names

}  // namespace glia::results
