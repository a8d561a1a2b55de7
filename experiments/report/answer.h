// What the tables say, in two sentences: which configurations differ, by how much, how certain that is.
#pragma once
#include <string>
#include <vector>

#include "experiments/report/summary.h"

namespace glia::results {

// First on accuracy, then on the last layer's specialisation, each against the study's main baseline: those whose
// Holm-corrected p (Welch) is below 0.05, or the range that all lie in. "" before there is anything to compare.
std::string accuracy_answer(const Summary& summary);
std::string routing_answer(const Summary& summary);
// Those that there are.
std::vector<std::string> answers(const Summary& summary);

}  // namespace glia::results
