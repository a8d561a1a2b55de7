// What else a referee asks of a difference between configurations: is it none that matters (equivalence), does it survive
// where many are looked at (false discoveries), and how many seeds would have seen it (power). From a summary alone.
#pragma once
#include "experiments/report/tables.h"

namespace glia::results {

// Each configuration against the study's first accuracy baseline: Welch's p with Holm's and with Benjamini and Hochberg's
// correction, the two one-sided tests of equivalence within ±summary.margin, the 90 % interval that they stand for, and what
// follows. No rows where no configuration has kLeastSeeds seeds; a note says why.
Table significance_table(const Summary& summary);

// Seeds a configuration that a difference of 0.1, 0.2, 0.5 and 1 points would take to be seen in four of five studies, at
// the spread that each shows; and the chance of seeing the margin with the seeds that there are.
Table power_table(const Summary& summary);

}  // namespace glia::results
