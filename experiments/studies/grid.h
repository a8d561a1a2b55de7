// A grid is the part of a study that runs its configurations at several recipes: which conclusions survive which of them.
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace glia {

// One recipe of a grid. Its runs lie in a result folder of its own, <out>/<name>.
struct Cell {
  std::string name;                                           // "lr5e-5-epochs3"
  std::vector<std::pair<std::string, std::string>> settings;  // a flag and its value for each axis
};

struct Grid {
  std::vector<std::pair<std::string, std::vector<std::string>>> axes;  // a flag and its values
  std::string seeds = "1";                                             // of every configuration in every cell
  std::map<std::string, std::string> seeds_of;                         // of single configurations instead
  std::string chosen_seeds;              // of all, at the chosen cell; "": none is chosen
  std::vector<int> chosen_seed_indices;  // which those are
  // Each configuration chooses a cell for itself instead of one for all; what it chose lies in a result folder of its own.
  bool each = false;
  // With `each`: so many of a configuration's cells, the best by one seed, get the chosen seeds, and their means choose.
  int64_t finalists = 1;

  bool empty() const { return axes.empty(); }
  std::vector<Cell> cells() const;  // the first axis slowest
  const std::string& seeds_for(const std::string& configuration) const;
  // "all", or names separated by commas; an unknown one is an error that lists those there are.
  std::vector<Cell> pick(const std::string& names) const;
};

// "A > B - 0.002 in accuracy": that the mean of `metric` over seeds is larger with configuration A than with B less
// `margin`.
struct Claim {
  std::string text;
  std::string ours, theirs, metric;  // a metric as in summary.json; "specialisation.last": of the last layer
  double margin = 0;                 // ≥ 0: how much A may fall behind B
};

// Throws unless the text has that form; whether the configurations exist is the study's to check.
Claim parse_claim(const std::string& text);

}  // namespace glia
