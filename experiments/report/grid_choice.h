// Which cell of a grid is chosen, for all configurations or by each for itself.
#pragma once
#include "experiments/report/grid.h"

namespace glia::results {

constexpr int kFirstSeed = 0;  // the seed that every configuration has in every cell

// nullptr: the cell has none. "specialisation.last": of its last layer.
const ConfigSummary* find_config(const GridCell& cell, const std::string& config);
const Metric* find_metric(const GridCell& cell, const std::string& config, const std::string& metric);
std::optional<double> of_first_seed(const Metric* metric);

// The mean over the configurations, each with the seed that all of them have: the same effort for each. None where one lacks it.
std::optional<double> choosing_value(const GridSummary& grid, const GridCell& cell);

// Sets what is said of the choice, from the cells and the study.
void choose(GridSummary& grid);

}  // namespace glia::results
