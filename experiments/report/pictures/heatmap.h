// Utilisation matrices to look at: matched over seeds, in the terminal, and as pictures.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "experiments/records/results.h"
#include "experiments/report/pictures/drawing.h"

namespace glia::results {

// Minimum-cost assignment of n rows to n columns (cost [n, n], row-major): column of each row. Shortest augmenting
// paths with potentials (Kuhn, Munkres; Jonker & Volgenant 1987), O(n³).
std::vector<int> best_assignment(const std::vector<double>& cost, int n);

// Experts have no identity across seeds. Each matrix's columns are permuted to fit a reference best (least
// squares): first the first matrix, then the mean of all, until the assignments stay. Returns the mean. Matching by
// itself gives some contrast to the mean of unrelated matrices, so pictures of it say that experts were matched.
Matrix matched_mean(const std::vector<Matrix>& matrices);

struct Heatmap {
  std::string title, note;
  std::vector<std::string> topics;
  std::vector<Matrix> layers;                    // one colour scale for all of them
  std::vector<int> layer_numbers;                // from 1
  std::vector<std::string> captions;             // of each layer; empty: "layer l · specialisation s"
  std::string nothing = "n/a: no routed token";  // stands in a row of zeros
  // What the scale is marked with: by default what every expert would have of even use, 1 / E, where gates sum to 1. NaN:
  // nothing.
  std::string mark_name = "even share";
  std::optional<double> mark = {};
};

Heatmap heatmap_of(const Run& run, bool cls, std::optional<int> layer = {});
Heatmap heatmap_of(const Run& run, RunUtilisation utilisation, bool cls,
                   std::optional<int> layer);  // not of its files
// Mean over the runs of one configuration, experts matched per layer. One run: that run.
Heatmap heatmap_of_mean(const std::vector<Run>& runs, bool cls, std::optional<int> layer = {});

std::string layer_caption(const Heatmap& map, size_t layer);  // "layer l · specialisation s"
drawing::Picture draw(const Heatmap& map);

// Percent, a line a topic; `color` shades each cell with the 256 colours of a terminal.
std::string as_text(const Heatmap& map, bool color);

}  // namespace glia::results
