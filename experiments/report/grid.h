// What the cells of a study's grid say together: which recipe was chosen, and which claims survive which recipe.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "experiments/report/summary.h"
#include "experiments/report/tables.h"

namespace glia::results {

struct GridCell {
  Cell cell;
  std::optional<Summary> summary;  // none: no run of it has begun
};

struct GridSummary {
  std::string out;
  Study study;
  std::vector<GridCell> cells;  // all of the grid's, in its order
  // The cell whose mean of `chosen_by`, over the configurations with one seed each, is the highest. None while one of
  // these runs is missing, or where the study chooses none.
  std::optional<size_t> chosen;
  // Where each configuration chooses for itself: its cell, for those that have a run in all of them; and their runs there.
  std::map<std::string, size_t> chosen_of;
  std::map<std::string, std::vector<size_t>>
      finalists_of;             // its best cells by one seed, as many as the study asks for
  int64_t chosen_by_means = 0;  // of chosen_of: those whose best cell and another have all chosen seeds
  std::optional<Summary> each;
  std::string chosen_by;       // validation_accuracy; accuracy where there are no validation rows (protocol paper)
  std::string not_chosen_why;  // "" when one is
};

// <out>/study.txt holds a study with a grid, and <out> no runs of its own.
bool is_grid_folder(const std::string& out);
std::string cell_folder(const std::string& out, const Cell& cell);
std::string chosen_folder(const std::string& out);  // of the runs that each configuration chose
// Throws, naming two runs, when they or the runs that the grid's cells in <out> hold differ in more than the grid's flags.
void require_one_grid(const std::string& out, const Study& study, std::vector<Run> runs = {});

GridSummary summarise_grid(const std::string& out);

std::string cell_heading(const GridSummary& grid, size_t cell);  // "lr 1e-4, epochs 3 (chosen)"
const Summary* first_summary(const GridSummary& grid);           // nullptr: no cell has a run
// Whether any cell has a run of it: finished, failed or under way.
bool begun(const GridSummary& grid, const std::string& config);
bool begun(const GridSummary& grid, const Claim& claim);

// Accuracies and the last layer's specialisation, configurations × cells; the chosen cell is marked. Without the cells,
// configurations and claims of which nothing was begun.
std::vector<Table> grid_tables(const GridSummary& grid);
// Claims × cells: holds, reversed or undecided, by Welch's test, Holm-corrected over the cells of a claim.
Table claim_table(const GridSummary& grid);

// Claims × axes of two values, where every cell has its seeds: what the second value changes in the claim's difference.
Table axis_table(const GridSummary& grid);

std::string print_grid(const GridSummary& grid);  // the terminal's view
// docs/results/<study>.md: what was run, the tables above, then those of the chosen cell.
std::string grid_markdown(const GridSummary& grid);
// <out>/grid.json: the choice and the claims, for programs.
Json to_json(const GridSummary& grid);

}  // namespace glia::results
