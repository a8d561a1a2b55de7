// Two result folders side by side: what they were made with where that differs, and their means.
#pragma once
#include <string>

#include "experiments/report/tables.h"

namespace glia::results {

// A row a line of the provenance (protocol, data, model, training, device, commit …) that differs.
Table provenance_difference(const Summary& a, const Summary& b);
// Accuracy and the last layer's specialisation of the configurations that both have; Welch's p, uncorrected, where both
// have three seeds.
Table side_by_side(const Summary& a, const Summary& b);

}  // namespace glia::results
