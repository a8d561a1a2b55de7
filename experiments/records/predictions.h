// predictions.csv of a run's folder: what the saved model says of each test row, for intervals over test rows. A run has it
// from the time on that somebody analysed it (tools/analyse).
#pragma once
#include <optional>
#include <string>
#include <vector>

namespace glia::results {

struct Predictions {
  std::vector<int32_t> predicted, labels;                 // [rows], in the split's order
  double accuracy() const;                                // NaN without rows
  std::vector<double> class_accuracy(int classes) const;  // [C]; NaN: no row of the class
};

void write_predictions(const std::string& folder, const Predictions& predictions);
// None where the run has no such file; an error that names the line where it is malformed.
std::optional<Predictions> read_predictions(const std::string& folder);

}  // namespace glia::results
