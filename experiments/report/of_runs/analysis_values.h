// What tools/analyse says of a finished run (its analysis.json), as metrics beside those of its eval.json: of each layer
// the rows of the metric table that are counted token by token, of the run those of Stage::analysis.
#pragma once
#include "experiments/records/results.h"

namespace glia::results {

// By name, as in ConfigSummary::metrics: "topic_peak.4", "topic_peak" over the layers, "topic_probe". What chance would give
// stands under chance_of() of the same name where it is known. NaN: n/a. Empty where nobody has analysed the run; throws,
// naming the file, when it is not what tools/analyse writes.
NamedValues analysis_values(const Run& run);

inline constexpr const char* kAnalysedTokens = "analysed_tokens";  // how many the file is of

std::string chance_of(const std::string& metric);  // "topic_peak.4" → "topic_peak_chance.4"

}  // namespace glia::results
