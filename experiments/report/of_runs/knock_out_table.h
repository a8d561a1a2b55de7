// What runs said when they were asked again (tools/analyse RUN --knock-out, whose analysis.json lies beside eval.json): what experts are
// for, a row a configuration; and what specialisation foretells of that, over the configurations.
#pragma once
#include "experiments/report/tables.h"

namespace glia::results {

// Means over the seeds that were asked. No rows where no run was.
Table knock_out_table(const Summary& summary, const Listing& listing);

// Spearman's rank correlation, over the configurations, of the last layer's specialisation with accuracy (or loss) and with what
// knock-out found. No rows below kLeastConfigurations of them.
inline constexpr int kLeastConfigurations = 5;
Table specialisation_foretells_table(const Summary& summary, const Listing& listing);

// These and the intervals over test rows, as far as they have rows.
std::vector<Table> tables_of_runs(const Summary& summary, const Listing& listing);

}  // namespace glia::results
