// The numbers of the published study (docs/science.md 5): five seeds, warm start from pretrained weights.
#pragma once
#include <optional>
#include <string>
#include <vector>

namespace glia::results {

struct Published {
  std::string config;  // our name
  std::string name;    // theirs
  double accuracy;
  std::string p_vs_dense;                         // as printed ("<0.001"); "" for dense
  std::optional<double> first_layer, last_layer;  // specialisation, from the text and figures
  std::optional<double> first_table, last_table;  // where the paper's table disagrees with its figures
};

// In the order of docs/science.md 2, which is the order of our tables and plots too.
const std::vector<Published>& published_numbers();
const Published* published(const std::string& config);  // nullptr for configurations the study does not have

}  // namespace glia::results
