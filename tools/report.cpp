// ./tools/report results — summary.json, summary.csv, report.html, plots; the table in the terminal; docs/results/<study>.md on
// request.
#include "experiments/report/report.h"
#include "engine/core/file.h"
#include "experiments/report/compare.h"
#include "experiments/report/grid.h"
#include "experiments/report/of_runs/knock_out_table.h"
#include "experiments/report/tables.h"
#include "tools/tool.h"

using namespace glia;
using namespace glia::results;

int main(int argc, char** argv) {
  std::string out = "results", markdown;
  std::vector<std::string> compare;
  bool no_plots = false;
  double margin = 0.5;
  CLI::App app(
      "Summarises a result folder: table here, summary.json, summary.csv, report.html and plots/ in the folder.");
  const std::vector<CLI::Option*> of_one = {
      app.add_option("results", out, "the result folder (default: results)"),
      app.add_option("--markdown", markdown,
                     "write the tables as Markdown to this file too (docs/results/<study>.md), from summary.json"),
      app.add_flag("--no-plots", no_plots, "leave out plots/*.svg and *.png"),
      app.add_option("--margin", margin,
                     "points of accuracy that are of no consequence, for equivalence (default: 0.5)")
          ->check(CLI::Range(1e-6, 100.0))};
  CLI::Option* both =
      app.add_option("--compare", compare, "two result folders side by side, here; writes nothing")->expected(2);
  for (CLI::Option* option : of_one) both->excludes(option);
  return run_tool("report", app, argc, argv, [&] {
    if (!compare.empty()) {
      const Summary a = summarise(compare[0]), b = summarise(compare[1]);
      const Table differs = provenance_difference(a, b), means = side_by_side(a, b);
      fmt::print("A  {}\nB  {}\n\n{}\n", a.out, b.out, differs.title);
      for (const auto& row : differs.rows) fmt::print("  {}\n    A  {}\n    B  {}\n", row[0], row[1], row[2]);
      fmt::print("\n{}\n{}\n", as_text(means), means.note);
      return 0;
    }
    if (is_grid_folder(out)) {
      GridSummary grid = summarise_grid(out);
      for (GridCell& cell : grid.cells)
        if (cell.summary) cell.summary->margin = margin / 100;
      if (grid.each) grid.each->margin = margin / 100;
      write_file_atomic(out + "/grid.json", to_json(grid).dump(1) + "\n");
      if (!markdown.empty()) write_file_atomic(markdown, grid_markdown(grid));
      fmt::print("{}", print_grid(grid));
      return 0;
    }
    const Summary summary = write_report(out, margin / 100);
    if (!no_plots) write_plots(out, summary, list_runs(out));
    if (!markdown.empty()) {
      Summary written = read_summary(out);
      written.margin = summary.margin;
      write_results_md(markdown, written, tables_of_runs(written, list_runs(out)));
    }
    fmt::print("{}\n{}/report.html\n", print_table(summary), out);
    return 0;
  });
}
