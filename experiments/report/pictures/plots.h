// Plots of a summary. Each configuration keeps its colour, marker and dashes in all of them (colour-blind safe:
// Okabe and Ito's palette and its like, and never colour alone).
#pragma once
#include <string>
#include <vector>

#include "experiments/report/pictures/drawing.h"
#include "experiments/report/summary.h"

namespace glia::results {

struct Style {
  drawing::Color color;
  int marker;
  std::vector<double> dashes;
};
Style style_of(const Summary& summary, const std::string& config);

// Bars with standard errors, the seeds as dots, values, stars (Holm-corrected Welch p against `baseline`: * < 0.05,
// ** < 0.01, *** < 0.001) and the published value as a diamond.
drawing::Picture accuracy_plot(const Summary& summary);
drawing::Picture word_loss_plot(const Summary& summary);
drawing::Picture specialisation_plot(const Summary& summary, int layer, bool cls);

// Specialisation by layer for every configuration: all tokens on the left, CLS rows, where they are read, on the right.
drawing::Picture depth_plot(const Summary& summary);

// Accuracy against last-layer specialisation, standard errors both ways.
drawing::Picture scatter_plot(const Summary& summary);

// Training curves, averaged over the seeds of a configuration, in the study's order.
struct Curve {
  std::vector<double> steps, values;
};
struct Curves {
  std::string config;
  Curve loss;      // cross-entropy of the training batches, in `bins` means
  Curve accuracy;  // of the evaluations during training
};
std::vector<Curves> training_curves(const Listing& listing, int bins = 60);
drawing::Picture curves_plot(const Summary& summary, const std::vector<Curves>& curves);

}  // namespace glia::results
