// Small matrices side by side, with their numbers: what may be negative, or is no share.
#pragma once
#include "experiments/records/routing/routing_metrics.h"
#include "experiments/report/pictures/drawing.h"

namespace glia::results {

struct MatrixPicture {
  std::string title, note;
  std::vector<std::string> rows, columns;  // names
  std::vector<Matrix> panels;              // one colour scale for all; NaN: n/a
  std::vector<std::string> captions;       // of the panels
  int decimals = 2;
};
// Blue where positive, orange where negative, the darker the larger.
drawing::Picture draw(const MatrixPicture& picture);

}  // namespace glia::results
